// Cross-moments by the CUDA kernels, on the shim, beside plain sums in float64. Inputs, results and
// workspace have exactly their size: a sanitizer sees any access beyond them.

#include "cuda/correlation.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "activations.hpp"
#include "check.hpp"
#include "cuda/correlation_kernel.cuh"
#include "cuda/tile_by_roles.cuh"
#include "cuda/tile_in_turn.cuh"
#include "cuda/tile_product.cuh"
#include "cuda/warpgroup_product.cuh"

namespace fastrebasin::tests {
namespace {

using cuda::Precision;

void add(const std::vector<CrossMoments>& problems, std::uint64_t seed = 0,
         Precision precision = Precision::highest) {
  cuda_shim::set_seed(seed);
  // Bytes of 0xFF, NaN as numbers: nothing may count on what a workspace holds.
  std::vector<unsigned char> workspace(cuda::workspace_bytes(problems, precision, 0), 0xFF);
  cuda::add_cross_moments(problems, precision, workspace.data(), 0, nullptr);
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

// What the rounding of two values, or of their product, may come to.
double error_of(Precision precision) {
  return std::ldexp(1, precision == Precision::highest ? -22
                       : precision == Precision::high  ? -10
                                                       : -7);
}

// Results are `times` the exact sums, but for their precision. Returns the largest error of
// products, which is relative to the units' norms.
double check_results(const Pair& pair, double times = 1, Precision precision = Precision::highest) {
  const double tolerance = error_of(Precision::highest);
  const Activations &x = pair.x, &y = pair.y;
  const std::int64_t n = pair.shape.count();
  const auto norms = [&](const Activations& units) {
    std::vector<double> norm(units.units);
    for (std::int64_t u = 0; u < units.units; ++u) {
      double sum = 0, square = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        sum += units.shifted(k, u);
        square += units.shifted(k, u) * units.shifted(k, u);
      }
      norm[u] = std::sqrt(square);
      CHECK(std::fabs(units.sums[u] - times * sum) <= tolerance * times * norm[u] * std::sqrt(n));
      CHECK(std::fabs(units.squares[u] - times * square) <= tolerance * times * square);
    }
    return norm;
  };
  const std::vector<double> x_norm = norms(x), y_norm = norms(y);
  double largest = 0;
  for (std::int64_t i = 0; i < x.units; ++i)
    for (std::int64_t j = 0; j < y.units; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < n; ++k) sum += x.shifted(k, i) * y.shifted(k, j);
      const double error = std::fabs(pair.products[i * y.units + j] - times * sum);
      largest = std::max(largest, error / (times * x_norm[i] * y_norm[j]));
    }
  CHECK(largest <= error_of(precision));
  return largest;
}

struct Case {
  std::int64_t x_units, y_units;
  Shape shape;
};

// Each size of tile, full and not; in one part and in several.
const Case cases[] = {
    {1, 1, {{1, 1, 1}}},     {3, 5, {{7, 1, 1}}},     {32, 32, {{2, 2, 4}}},
    {33, 20, {{10, 5, 6}}},  {64, 61, {{1, 1, 257}}}, {70, 130, {{3, 10, 9}}},
    {129, 1, {{261, 1, 1}}}, {1, 65, {{4, 4, 17}}},   {132, 72, {{2, 9, 8}}},
    {140, 260, {{3, 5, 4}}},
};
constexpr Precision precisions[] = {Precision::highest, Precision::high, Precision::medium};
const char* const precision_names[] = {"highest", "high", "medium"};

std::string name_of(const Case& c) {
  std::string name = std::to_string(c.x_units) + " x " + std::to_string(c.y_units) + " units, ";
  for (const std::int64_t count : c.shape.observations) name += std::to_string(count) + " ";
  return name;
}

// Elements, layouts and precisions, each with each, over the cases in turn.
void test_inputs(int rounds) {
  Random random(1);
  int turn = 0;
  for (const Case& c : cases)
    for (int k = 0; k < rounds; ++k, ++turn) {
      const Element x = elements[turn % 3], y = elements[turn / 3 % 3];
      const Layout of_x = layouts[turn % 5], of_y = layouts[(turn + turn / 5) % 5];
      const Precision precision = precisions[(turn + turn / 3 + turn / 9) % 3];
      current_case = name_of(c) + "elements " + std::to_string(int(x)) + std::to_string(int(y)) +
                     ", layouts " + std::to_string(int(of_x)) + std::to_string(int(of_y)) + ", " +
                     precision_names[int(precision)];
      Pair pair(c.shape, c.x_units, c.y_units, x, y, of_x, of_y, random);
      add({pair.problem()}, turn, precision);
      check_results(pair, 1, precision);
    }
}

// What is asked for is what is done: less precise is less exact, and by no more than it may.
void test_precisions_differ() {
  Random random(11);
  for (const std::int64_t units : {9, 50, 100}) {
    Pair pair({{300, 1, 1}}, units, units, Element::float32, Element::float32, Layout::rows,
              Layout::columns, random);
    double least = 0;
    for (const Precision precision : precisions) {
      current_case = std::to_string(units) + " units, " + precision_names[int(precision)];
      pair.clear();
      add({pair.problem()}, 0, precision);
      const double error = check_results(pair, 1, precision);
      CHECK(error > least);
      least = precision == Precision::highest ? 0x1p-20 : 0x1p-13;
    }
  }
}

// Any order of blocks and threads, any company and any workspace: the same results, bit for bit.
void test_order_and_company_change_nothing() {
  Random random(2);
  std::vector<Pair> pairs;
  for (int k = 0; k < 3; ++k)
    for (const Case& c : cases)
      if (k == 0 || c.x_units <= 33)
        pairs.emplace_back(c.shape, c.x_units, c.y_units, Element::float32, elements[k],
                           Layout::rows, Layout::channels_first, random);
  std::vector<Pair> many = pairs;
  for (int k = 0; k < 20; ++k) many.push_back(pairs[2]);  // more than one launch has room for
  std::vector<CrossMoments> problems;
  for (Pair& pair : many) problems.push_back(pair.problem());
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    current_case = "company, seed " + std::to_string(seed);
    for (Pair& pair : many) pair.clear();
    add(problems, seed);
    for (std::size_t k = 0; k < pairs.size(); ++k) {
      if (seed == 0) add({pairs[k].problem()}, 100);
      CHECK(same(many[k].results(), pairs[k].results()));
    }
  }
}

// Results are added to what is there.
void test_batches_add_up() {
  Random random(3);
  for (const Case& c : cases) {
    current_case = "twice, " + name_of(c);
    Pair pair(c.shape, c.x_units, c.y_units, Element::float32, Element::float32, Layout::rows,
              Layout::rows, random);
    add({pair.problem()});
    add({pair.problem()});
    check_results(pair, 2);
  }
}

// One network alone: its units' products are symmetric, bit for bit; sums aren't asked for twice.
void test_products_with_itself_are_symmetric() {
  Random random(4);
  for (const std::int64_t units : {5, 40, 130, 260}) {
    const Precision precision = precisions[units % 3];
    current_case = "itself, " + std::to_string(units);
    Pair pair({{3, 7, units > 200 ? 4 : 20}}, units, units, Element::float32, Element::float32,
              Layout::channels_first, Layout::rows, random);
    pair.y = pair.x;
    CrossMoments problem = pair.problem();
    problem.y = problem.x;
    problem.y.sums = problem.y.squares = nullptr;
    add({problem}, 0, precision);
    add({problem}, 1, precision);
    pair.y.sums = pair.x.sums;
    pair.y.squares = pair.x.squares;
    check_results(pair, 2, precision);
    for (int i = 0; i < units; ++i)
      for (int j = 0; j < i; ++j)
        CHECK(pair.products[i * units + j] == pair.products[j * units + i]);
  }
}

// A mean of 100 with a deviation of 0.01 leaves covariances the digits that were asked for.
void test_means_far_from_zero(Precision precision) {
  current_case = std::string("mean of 100, ") + precision_names[int(precision)];
  Random random(5);
  Pair pair({{900, 1, 1}}, 20, 9, Element::float32, Element::float32, Layout::rows, Layout::rows,
            random, 100, 0.01);
  add({pair.problem()}, 0, precision);
  const auto n = static_cast<double>(pair.shape.count());
  const auto mean = [&](const Activations& units, int u) {
    double sum = 0;
    for (int k = 0; k < n; ++k) sum += units.value(k, u);
    return sum / n;
  };
  for (int i = 0; i < 20; ++i)
    for (int j = 0; j < 9; ++j) {
      const double x_mean = mean(pair.x, i), y_mean = mean(pair.y, j);
      double exact = 0;
      for (int k = 0; k < n; ++k)
        exact += (pair.x.value(k, i) - x_mean) * (pair.y.value(k, j) - y_mean);
      const double found = pair.products[i * 9 + j] - pair.x.sums[i] * pair.y.sums[j] / n;
      CHECK(std::fabs(found - exact) <= error_of(precision) * n * 0.01 * 0.01);
      CHECK(std::fabs(pair.x.shift[i] + pair.x.sums[i] / n - x_mean) <= 1e-8);
    }
}

// Sums move to float64 after every span, and begin again.
template <typename Tile>
void test_spans_add_up() {
  using Shape = typename Tile::Shape;
  current_case = "spans";
  Random random(6);
  constexpr int n = 5 * Shape::span / 2;
  constexpr int y_units = Shape::YSide::units > 128 ? 262 : 66;
  Pair pair({{n, 1, 1}}, 70, y_units, Element::float32, Element::float32, Layout::rows,
            Layout::columns, random);
  const cuda::Manner manner{Shape::precision, Shape::threads > 128};
  cuda::Group group = cuda::groups_of({pair.problem()}, manner, nullptr).front();
  cuda::Task& whole = group.tasks[0];
  group.blocks = whole.tiles;
  whole.parts = 1;
  whole.part_observations = n;
  whole.part_results = nullptr;
  cuda::launch_multiply<Tile>(group, nullptr);
  check_results(pair, 1, Shape::precision);
}

// No shift, no sums, no observations, no units, no problems.
void test_what_is_not_there() {
  current_case = "nothing";
  Random random(7);
  Pair pair({{40, 10, 1}}, 6, 4, Element::float32, Element::float32, Layout::rows, Layout::rows,
            random);
  CrossMoments problem = pair.problem();
  for (Units* units : {&problem.x, &problem.y}) {
    units->shift = nullptr;
    units->sums = units->squares = nullptr;
  }
  pair.x.shift.assign(6, 0.0f);
  pair.y.shift.assign(4, 0.0f);
  add({problem});
  const std::vector<double> products = pair.products;
  pair.clear();
  add({pair.problem()});
  CHECK(same(pair.products, products));
  check_results(pair);
  std::vector<CrossMoments> empty(3, pair.problem());
  empty[0].observations[1] = 0;
  empty[1].x.count = 0;
  empty[2].y.count = 0;
  const std::vector<double> before = pair.results();
  add(empty);
  add({});
  CHECK(cuda::workspace_bytes(empty, Precision::high, 0) == 0);
  CHECK(same(pair.results(), before));
}

// One axis of y's observations in another order, and two problems whose products add up.
void test_gathered_observations() {
  Random random(12);
  for (int turn = 0; turn < 30; ++turn) {
    const int axis = turn % 3;
    const Layout layout = layouts[turn % 5];
    const std::int64_t units = turn % 4 == 3 ? 66 : 7;
    const Shape shape{{turn % 2 ? 4 : 1, 5, 8}};
    current_case = "gathered, turn " + std::to_string(turn);
    Pair pair(shape, units, 12, Element::float32, elements[turn % 3], layout, layout, random);
    std::vector<std::int64_t> index(shape.observations[axis]);
    for (std::int64_t& at : index) at = below(random, index.size());
    CrossMoments gathered = pair.problem(), plain = gathered;
    gathered.gathered = index.data();
    gathered.gathered_axis = axis;
    for (CrossMoments* problem : {&gathered, &plain})
      problem->x.sums = problem->x.squares = problem->y.sums = problem->y.squares = nullptr;
    add({gathered, plain, gathered}, turn);
    const auto& n = shape.observations;
    const std::int64_t inner = axis == 2 ? 1 : axis == 1 ? n[2] : n[1] * n[2];
    for (std::int64_t i = 0; i < units; ++i)
      for (std::int64_t j = 0; j < 12; ++j) {
        double sum = 0, size = 0;
        for (std::int64_t k = 0; k < shape.count(); ++k) {
          const std::int64_t at = k / inner % n[axis], from = k + (index[at] - at) * inner;
          const double x = pair.x.shifted(k, i);
          sum += x * (2 * pair.y.shifted(from, j) + pair.y.shifted(k, j));
          size += std::fabs(x) * (2 * std::fabs(pair.y.shifted(from, j)) + 4);
        }
        CHECK(std::fabs(pair.products[i * 12 + j] - sum) <= 0x1p-22 * size);
      }
  }
}

// Shifts are within half a deviation of means, have few digits, and are the value of units that
// have but one.
void test_shifts_are_almost_means() {
  Random random(13);
  std::vector<Pair> pairs;
  for (int k = 0; k < 20; ++k)
    pairs.emplace_back(cases[k % 4].shape, 1 + 13 * (k % 6), 40, elements[k % 3],
                       elements[k / 3 % 3], layouts[k % 5], layouts[k / 5], random, k % 2 ? 30 : 0,
                       k % 2 ? 0.5 : 1);
  pairs.emplace_back(Shape{{2, 5000, 1}}, 33, 2, Element::float32, Element::float32, Layout::rows,
                     Layout::columns, random, 3, 0.01);
  for (std::int64_t at = 0; at < 10'000; ++at) pairs.back().x.floats[at * 33 + 7] = 0.1f;
  std::vector<CrossMoments> problems;
  for (Pair& pair : pairs) {
    for (Activations* units : {&pair.x, &pair.y}) units->shift.assign(units->units, NAN);
    problems.push_back(pair.problem());
  }
  cuda::find_shifts(problems, 0, nullptr);
  CHECK(pairs.back().x.shift[7] == 0.1f);
  pairs.back().x.shift[7] = 3;
  for (const Pair& pair : pairs)
    for (const Activations* units : {&pair.x, &pair.y})
      for (std::int64_t u = 0; u < units->units; ++u) {
        current_case = "shifts of " + std::to_string(units->units) + " units";
        const auto n = static_cast<double>(pair.shape.count());
        double sum = 0, square = 0;
        for (std::int64_t k = 0; k < n; ++k) sum += units->value(k, u);
        for (std::int64_t k = 0; k < n; ++k) square += std::pow(units->value(k, u) - sum / n, 2);
        const double deviation = std::sqrt(square / n);
        CHECK(std::fabs(units->shift[u] - sum / n) <= 0.5 * deviation);
        const double places = units->shift[u] / std::exp2(std::floor(std::log2(deviation)) - 6);
        CHECK(n == 1 || places == std::nearbyint(places));
      }
}

// Not-a-numbers stay with their units.
void test_bad_values_spread_no_further() {
  current_case = "bad values";
  Random random(8);
  Pair pair({{300, 1, 1}}, 5, 6, Element::float32, Element::float16, Layout::rows, Layout::rows,
            random);
  pair.x.floats[7 * 5 + 2] = NAN;
  pair.y.halves[9 * 6 + 1] = 0x7C00;  // infinity
  add({pair.problem()});
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 6; ++j)
      CHECK(std::isfinite(pair.products[i * 6 + j]) == (i != 2 && j != 1));
}

void test_failures_are_told() {
  Random random(9);
  Pair pair({{600, 1, 1}}, 5, 6, Element::float32, Element::float32, Layout::rows, Layout::rows,
            random);
  const char* expected[] = {"tell a device's generation", "tell the current device",
                            "tell a device's generation", "launch a kernel", "launch a kernel"};
  for (int calls = 0; calls < 5; ++calls) {
    current_case = "failure after " + std::to_string(calls) + " calls";
    cuda_shim::fail(cudaErrorInvalidValue, calls);
    std::string message;
    try {
      add({pair.problem()});
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    CHECK(message == std::string("CUDA can't ") + expected[calls] + ": invalid argument");
  }
}

// Parts longer than the observations whose places are at hand, too.
void test_long_parts() {
  test_spans_add_up<cuda::TileInTurn<cuda::WarpShape<128, Precision::highest, 128>>>();
  test_spans_add_up<cuda::TileByRoles<cuda::WarpgroupShape<128, Precision::highest, 128>>>();
  test_spans_add_up<cuda::TileByRoles<cuda::WarpgroupShape<128, Precision::high, 128>>>();
  test_spans_add_up<cuda::TileByRoles<cuda::WarpgroupShape<256, Precision::high, 128>>>();
  test_spans_add_up<cuda::TileByRoles<cuda::WarpgroupShape<128, Precision::medium, 128>>>();
}

void test_the_rest() {
  cuda_shim::set_generation(8);
  test_batches_add_up();
  for (const Precision precision : precisions) test_means_far_from_zero(precision);
  test_shifts_are_almost_means();
  test_what_is_not_there();
  test_failures_are_told();
}

}  // namespace
}  // namespace fastrebasin::tests

// With an argument only what comes to each barrier once: the sanitizer of threads is slow.
int main(int count, char**) {
  using namespace fastrebasin::tests;
  for (const int generation : {8, 9}) {  // by warps, and by warpgroups
    cuda_shim::set_generation(generation);
    test_inputs(count > 1 ? 1 : 9);
    if (count > 1) continue;
    test_order_and_company_change_nothing();
    test_precisions_differ();
    test_products_with_itself_are_symmetric();
    test_gathered_observations();
    test_bad_values_spread_no_further();
  }
  test_long_parts();
  if (count == 1) test_the_rest();
  std::puts("cross-moments are those of plain sums");
}
