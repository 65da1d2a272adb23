// Cross-moments by the CUDA kernels, on the shim, beside plain sums in float64. Inputs, results and
// workspace have exactly their size: a sanitizer sees any access beyond them.

#include "cuda/correlation.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "check.hpp"
#include "cuda/elements.cuh"
#include "cuda/launch.cuh"
#include "matrices.hpp"

namespace fastrebasin::tests {
namespace {

using cuda::CrossMoments, cuda::Element, cuda::Units;

constexpr Element elements[] = {Element::float32, Element::bfloat16, Element::float16};

// (n, d); (batch, d, positions); (batch, positions, d); (d, n); a window of images (batch, d, H,
// W).
enum class Layout { rows, channels_first, channels_last, columns, window };
constexpr Layout layouts[] = {Layout::rows, Layout::channels_first, Layout::channels_last,
                              Layout::columns, Layout::window};

struct Shape {
  std::int64_t observations[cuda::observation_axes];
  std::int64_t count() const { return observations[0] * observations[1] * observations[2]; }
};

// Values of units: in memory, and as exact numbers.
struct Activations {
  Activations(Shape shape, std::int64_t units, Element element, Layout layout, Random& random,
              double mean = 0, double deviation = 1);

  Units view() {
    const void* data = element == Element::float32 ? static_cast<const void*>(floats.data())
                                                   : static_cast<const void*>(halves.data());
    Units found{data, element, units, unit_stride, {}, shift.data(), sums.data(), squares.data()};
    std::copy(strides, strides + cuda::observation_axes, found.observation_strides);
    return found;
  }
  double value(std::int64_t n, std::int64_t unit) const { return values[n * units + unit]; }
  double shifted(std::int64_t n, std::int64_t unit) const { return value(n, unit) - shift[unit]; }

  std::int64_t units;
  Element element;
  std::int64_t unit_stride, strides[cuda::observation_axes];
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
  std::vector<double> values;  // (observations, units)
  std::vector<float> shift;
  std::vector<double> sums, squares;
};

std::uint16_t to_float16(double value) {
  if (value == 0) return 0;
  int exponent;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // from 1/2 to 1
  const int scale = std::max(exponent, -13) - 11;                   // of the last place
  const auto places = static_cast<int>(std::nearbyint(std::ldexp(fraction, exponent - scale)));
  return (value < 0 ? 0x8000 : 0) + ((scale + 24) << 10) + places;
}

Activations::Activations(Shape shape, std::int64_t units, Element element, Layout layout,
                         Random& random, double mean, double deviation)
    : units(units), element(element), shift(units), sums(units), squares(units) {
  const auto [batch, rows, cols] = shape.observations;
  const std::int64_t positions = rows * cols, n = batch * positions, wide = cols + 3;
  const auto set = [&](std::int64_t unit, std::int64_t a, std::int64_t b, std::int64_t c) {
    unit_stride = unit;
    strides[0] = a, strides[1] = b, strides[2] = c;
  };
  switch (layout) {
    case Layout::rows:
    case Layout::channels_last:
      set(1, positions * units, cols * units, units);
      break;
    case Layout::channels_first:
      set(positions, units * positions, cols, 1);
      break;
    case Layout::columns:
      set(n, positions, cols, 1);
      break;
    case Layout::window:
      set(rows * wide, units * rows * wide, wide, 1);
      break;
  }
  std::size_t size = 1;
  for (int axis = 0; axis < cuda::observation_axes; ++axis)
    size += strides[axis] * (shape.observations[axis] - 1);
  size += unit_stride * (units - 1);
  // What lies between is no part of the values.
  if (element == Element::float32)
    floats.assign(size, NAN);
  else
    halves.assign(size, 0x7FFF);
  std::vector<double> common(4);
  for (std::int64_t a = 0; a < batch; ++a)
    for (std::int64_t b = 0; b < rows; ++b)
      for (std::int64_t c = 0; c < cols; ++c) {
        for (double& cause : common) cause = 2 * uniform(random) - 1;
        for (std::int64_t u = 0; u < units; ++u) {
          const double noise = 2 * uniform(random) - 1;
          const double value = mean + deviation * (common[u % 4] + noise);
          const std::int64_t at =
              a * strides[0] + b * strides[1] + c * strides[2] + u * unit_stride;
          const auto single = static_cast<float>(value);
          if (element == Element::float32) floats[at] = single;
          if (element == Element::bfloat16) halves[at] = __float_as_uint(single) >> 16;
          if (element == Element::float16) halves[at] = to_float16(value);
          values.push_back(element == Element::float32    ? single
                           : element == Element::bfloat16 ? cuda::widened_bfloat16(halves[at])
                                                          : cuda::widened_float16(halves[at]));
        }
      }
  for (std::int64_t u = 0; u < units; ++u) {  // almost the mean
    double sum = 0;
    for (std::int64_t k = 0; k < n; ++k) sum += value(k, u);
    shift[u] = static_cast<float>(sum / n + 0.1 * deviation);
  }
}

struct Pair {
  Pair(Shape shape, std::int64_t x_units, std::int64_t y_units, Element x_element,
       Element y_element, Layout x_layout, Layout y_layout, Random& random, double mean = 0,
       double deviation = 1)
      : shape(shape),
        x(shape, x_units, x_element, x_layout, random, mean, deviation),
        y(shape, y_units, y_element, y_layout, random, -mean, deviation),
        products(x_units * y_units) {}

  CrossMoments problem() {
    const auto& n = shape.observations;
    return {x.view(), y.view(), {n[0], n[1], n[2]}, products.data()};
  }
  // All results, one after the other.
  std::vector<double> results() const {
    std::vector<double> all = products;
    for (const auto* part : {&x.sums, &x.squares, &y.sums, &y.squares})
      all.insert(all.end(), part->begin(), part->end());
    return all;
  }
  void clear() {
    for (auto* part : {&products, &x.sums, &x.squares, &y.sums, &y.squares})
      std::fill(part->begin(), part->end(), 0.0);
  }

  Shape shape;
  Activations x, y;
  std::vector<double> products;
};

void add(const std::vector<CrossMoments>& problems, std::uint64_t seed = 0) {
  cuda_shim::set_seed(seed);
  // Bytes of 0xFF, NaN as numbers: nothing may count on what a workspace holds.
  std::vector<unsigned char> workspace(cuda::workspace_bytes(problems), 0xFF);
  cuda::add_cross_moments(problems, workspace.data(), 0, nullptr);
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

// Results are `times` the exact sums, but for the rounding of float32.
void check_results(const Pair& pair, double times = 1) {
  constexpr double tolerance = 1e-6;
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
  for (std::int64_t i = 0; i < x.units; ++i)
    for (std::int64_t j = 0; j < y.units; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < n; ++k) sum += x.shifted(k, i) * y.shifted(k, j);
      const double found = pair.products[i * y.units + j];
      CHECK(std::fabs(found - times * sum) <= tolerance * times * x_norm[i] * y_norm[j]);
    }
}

struct Case {
  std::int64_t x_units, y_units;
  Shape shape;
};

// Each size of tile, full and not; one span and several, in one part and in several.
const Case cases[] = {
    {1, 1, {{1, 1, 1}}},     {3, 5, {{7, 1, 1}}},     {32, 32, {{2, 2, 4}}},
    {33, 20, {{10, 5, 6}}},  {64, 61, {{1, 1, 257}}}, {70, 130, {{3, 10, 9}}},
    {129, 1, {{261, 1, 1}}}, {1, 65, {{4, 4, 17}}},
};

std::string name_of(const Case& c) {
  std::string name = std::to_string(c.x_units) + " x " + std::to_string(c.y_units) + " units, ";
  for (const std::int64_t count : c.shape.observations) name += std::to_string(count) + " ";
  return name;
}

void test_elements_are_widened_exactly() {
  current_case = "widening";
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const int exponent = bits >> 10 & 0x1F, places = bits & 0x3FF;
    const float value = cuda::widened_float16(bits);
    CHECK(std::signbit(value) == (bits >> 15 != 0));
    if (exponent == 31) {
      CHECK(places ? std::isnan(value) : std::isinf(value));
    } else {
      const int units = exponent ? 0x400 + places : places;
      CHECK(std::fabs(value) == std::ldexp(units, std::max(exponent, 1) - 25));
      CHECK(to_float16(value) == (units ? bits : 0));
    }
    CHECK(__float_as_uint(cuda::widened_bfloat16(bits)) == bits << 16);
  }
}

// Elements and layouts, each with each, over the cases in turn.
void test_inputs(int rounds) {
  Random random(1);
  int turn = 0;
  for (const Case& c : cases)
    for (int k = 0; k < rounds; ++k, ++turn) {
      const Element x = elements[turn % 3], y = elements[turn / 3 % 3];
      const Layout of_x = layouts[turn % 5], of_y = layouts[(turn + turn / 5) % 5];
      current_case = name_of(c) + "elements " + std::to_string(int(x)) + std::to_string(int(y)) +
                     ", layouts " + std::to_string(int(of_x)) + std::to_string(int(of_y));
      Pair pair(c.shape, c.x_units, c.y_units, x, y, of_x, of_y, random);
      add({pair.problem()}, turn);
      check_results(pair);
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
  for (const std::int64_t units : {5, 40, 130}) {
    current_case = "itself, " + std::to_string(units);
    Pair pair({{3, 7, 20}}, units, units, Element::float32, Element::float32,
              Layout::channels_first, Layout::rows, random);
    pair.y = pair.x;
    CrossMoments problem = pair.problem();
    problem.y = problem.x;
    problem.y.sums = problem.y.squares = nullptr;
    add({problem});
    pair.y.sums = pair.x.sums;
    pair.y.squares = pair.x.squares;
    check_results(pair);
    for (int i = 0; i < units; ++i)
      for (int j = 0; j < i; ++j)
        CHECK(pair.products[i * units + j] == pair.products[j * units + i]);
  }
}

// A mean of 100 with a deviation of 0.01 leaves covariances their digits.
void test_means_far_from_zero() {
  current_case = "mean of 100";
  Random random(5);
  Pair pair({{900, 1, 1}}, 20, 9, Element::float32, Element::float32, Layout::rows, Layout::rows,
            random, 100, 0.01);
  add({pair.problem()});
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
      CHECK(std::fabs(found - exact) <= 1e-6 * n * 0.01 * 0.01);
      CHECK(std::fabs(pair.x.shift[i] + pair.x.sums[i] / n - x_mean) <= 1e-8);
    }
}

// More spans than parts.
void test_many_observations() {
  current_case = "many observations";
  Random random(6);
  Pair pair({{33000, 1, 1}}, 3, 2, Element::bfloat16, Element::float32, Layout::rows,
            Layout::columns, random);
  add({pair.problem()});
  check_results(pair);
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
  CHECK(cuda::workspace_bytes(empty) == 0);
  CHECK(same(pair.results(), before));
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
  const char* expected[] = {"tell the current device", "use the device", "launch a kernel",
                            "launch a kernel"};
  for (int calls = 0; calls < 4; ++calls) {
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

}  // namespace
}  // namespace fastrebasin::tests

// With an argument only what comes to each barrier once: the sanitizer of threads is slow.
int main(int count, char**) {
  using namespace fastrebasin::tests;
  if (count > 1) {
    test_inputs(1);
    std::puts("cross-moments are those of plain sums");
    return 0;
  }
  test_elements_are_widened_exactly();
  test_inputs(5);
  test_order_and_company_change_nothing();
  test_batches_add_up();
  test_products_with_itself_are_symmetric();
  test_means_far_from_zero();
  test_many_observations();
  test_what_is_not_there();
  test_bad_values_spread_no_further();
  test_failures_are_told();
  std::puts("cross-moments are those of plain sums");
}
