// The assignment solver, driven as the bindings drive it, over every kind of matrix, shape and
// layout: each answer must prove itself optimal.

#include "cpu/assignment.hpp"

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "matrices.hpp"
#include "optimality.hpp"

namespace fastrebasin::tests {
namespace {

using cpu::AssignmentStatus;
using cpu::MatrixView;
using Shape = std::pair<std::int64_t, std::int64_t>;

constexpr double infinity = std::numeric_limits<double>::infinity();

// Around the tails of vectors of 2, 4 and 8, of groups of 32 and of words of 64.
const std::initializer_list<Shape> small_shapes = {
    {0, 0},  {0, 5},   {5, 0},   {1, 1},    {1, 9},     {9, 1},     {2, 2},     {3, 7},
    {7, 3},  {8, 8},   {13, 17}, {17, 13},  {31, 31},   {32, 33},   {33, 32},   {40, 40},
    {5, 65}, {65, 64}, {64, 64}, {70, 100}, {127, 127}, {128, 128}, {129, 128},
};

// Around the size from which candidate lists are kept.
const std::initializer_list<Shape> large_shapes = {{319, 319}, {320, 320}, {321, 321}, {360, 360},
                                                   {200, 256}, {320, 334}, {334, 320}, {322, 334},
                                                   {334, 321}, {319, 350}, {323, 409}};

template <typename T>
constexpr const char* name_of = sizeof(T) == 4 ? "float" : "double";

template <typename T>
void name_case(const char* sweep, Structure structure, const Shape& shape, bool maximize) {
  current_case = std::string(sweep) + ", structure " + std::to_string(int(structure)) + ", " +
                 std::to_string(shape.first) + " x " + std::to_string(shape.second) + ", " +
                 name_of<T> + (maximize ? ", maximise" : "");
}

// Calls `visit(matrix, maximize)` for every structure, both ways.
template <typename T, typename Visit>
void for_each_structure(const char* sweep, const Shape& shape, Visit visit) {
  for (const Structure structure : structures)
    for (const bool maximize : {false, true}) {
      name_case<T>(sweep, structure, shape, maximize);
      Random random(shape.first * 1009 + shape.second);
      visit(make(structure, shape.first, shape.second, random, maximize ? -infinity : infinity),
            maximize);
    }
}

template <typename T>
void solve_and_check(const Matrix& matrix, bool maximize, std::ptrdiff_t row_stride,
                     std::ptrdiff_t col_stride) {
  current_case += ", strides " + std::to_string(row_stride) + " " + std::to_string(col_stride);
  const Buffer<T> buffer(matrix, row_stride, col_stride);
  check_answer(buffer.view(), maximize, solve(buffer.view(), maximize));
}

// Every way of lying in memory: by rows, by columns, apart, backwards, and again and again.
template <typename T>
void test_layouts() {
  for (const Shape& shape : small_shapes)
    for_each_structure<T>("layouts", shape, [](const Matrix& matrix, bool maximize) {
      const std::ptrdiff_t rows = matrix.rows, cols = matrix.cols;
      const std::pair<std::ptrdiff_t, std::ptrdiff_t> strides[] = {
          {cols, 1},   {1, rows},        {cols + 3, 1},     {2 * cols + 1, 2},
          {-cols, -1}, {-(cols + 1), 1}, {-1, -(rows + 2)}, {0, 1},
          {1, 0},      {0, 0},
      };
      const std::string where = current_case;
      for (const auto& [row_stride, col_stride] : strides) {
        current_case = where;
        solve_and_check<T>(matrix, maximize, row_stride, col_stride);
      }
    });
}

// Every structure meets every layout and both directions, if not in every shape.
template <typename T>
void test_large() {
  std::size_t turn = 0;
  for (const Shape& shape : large_shapes) {
    for_each_structure<T>("large", shape, [&](const Matrix& matrix, bool maximize) {
      if ((turn++ + shape.first + shape.second) % 2 != 0) return;
      const std::ptrdiff_t rows = matrix.rows, cols = matrix.cols;
      const std::pair<std::ptrdiff_t, std::ptrdiff_t> strides[] = {
          {cols, 1}, {1, rows}, {cols + 5, 1}, {-cols, -1}};
      const auto& [row_stride, col_stride] = strides[turn / 2 % 4];
      solve_and_check<T>(matrix, maximize, row_stride, col_stride);
    });
    ++turn;
  }
}

// Scales at the ends of float and, in double, far beyond and among the denormals.
template <typename T>
void test_scales() {
  const std::vector<double> scales = sizeof(T) == 4
                                         ? std::vector<double>{1e-42, 1e-30, 1e30}
                                         : std::vector<double>{1e-318, 1e-300, 1e30, 1e290};
  for (const double scale : scales)
    for (const Shape& shape : {Shape{9, 9}, Shape{30, 41}, Shape{259, 259}})
      for_each_structure<T>("scales", shape, [&](Matrix matrix, bool maximize) {
        for (double& entry : matrix.entries) entry *= scale;
        current_case += ", times " + std::to_string(scale);
        solve_and_check<T>(matrix, maximize, matrix.cols, 1);
      });
}

// The least sum over all ways to give row i and those after it a column; infinity for none.
template <typename T>
double cheapest(const MatrixView<T>& cost, bool maximize, std::int64_t i,
                std::vector<bool>& taken) {
  if (i == cost.rows) return 0.0;
  double least = infinity;
  for (std::int64_t j = 0; j < cost.cols; ++j) {
    if (taken[j]) continue;
    taken[j] = true;
    least = std::min(
        least, cost_to_minimise(cost, maximize, i, j) + cheapest(cost, maximize, i + 1, taken));
    taken[j] = false;
  }
  return least;
}

template <typename T>
void test_brute_force() {
  for (std::int64_t rows = 1; rows <= 6; ++rows)
    for (std::int64_t cols = 1; cols <= 6; ++cols)
      for_each_structure<T>("brute force", {rows, cols}, [](const Matrix& matrix, bool maximize) {
        const Buffer<T> buffer = contiguous<T>(matrix);
        const MatrixView<T> cost = buffer.view();
        const Answer answer = solve(cost, maximize);
        check_answer(cost, maximize, answer);
        std::vector<bool> taken(std::max(cost.rows, cost.cols), false);
        const double least =
            cheapest(cost.rows <= cost.cols ? cost : cost.transposed(), maximize, 0, taken);
        CHECK((answer.status == AssignmentStatus::optimal) == (least < infinity));
        if (least == infinity) return;
        const double scale = std::max(1.0, std::abs(least));
        CHECK(std::abs(objective(cost, maximize, answer) - least) <= 1e-13 * scale);
      });
}

// One entry that is no cost, wherever it is and whatever else there is.
template <typename T>
void test_invalid_entries() {
  for (const Shape& shape : {Shape{1, 1}, Shape{7, 9}, Shape{33, 20}, Shape{321, 321}})
    for_each_structure<T>("invalid", shape, [&](Matrix matrix, bool maximize) {
      const double infinitely_good = maximize ? infinity : -infinity;
      for (const double bad : {infinitely_good, std::numeric_limits<double>::quiet_NaN()})
        for (const std::size_t where :
             {std::size_t{0}, matrix.entries.size() / 3, matrix.entries.size() - 1}) {
          const double before = std::exchange(matrix.entries[where], bad);
          const Buffer<T> buffer = contiguous<T>(matrix);
          CHECK(solve(buffer.view(), maximize).status == AssignmentStatus::invalid_entry);
          matrix.entries[where] = before;
        }
    });
}

// Starts that a caller could hand in: good ones, stale ones and nonsense.
std::vector<std::pair<std::string, Answer>> starts(const Answer& own, Random& random) {
  std::vector<std::pair<std::string, Answer>> found = {{"its own result", own}};
  const auto add = [&](const std::string& name, auto change) {
    found.emplace_back(name, own);
    change(found.back().second);
  };
  const auto set_prices = [&](auto price) {
    return [&, price](Answer& start) {
      for (double& dual : start.col_duals) dual = price();
    };
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  add("other prices", set_prices([&] { return uniform(random); }));
  add("NaN prices", set_prices([=] { return nan; }));
  add("one NaN", [=](Answer& start) { start.col_duals.back() = nan; });
  add("huge prices", set_prices([&] { return 1e300 * (uniform(random) - 0.5); }));
  add("infinite prices", set_prices([=] { return infinity; }));
  add("one infinite price", [=](Answer& start) { start.col_duals.front() = -infinity; });
  add("reversed pairs",
      [](Answer& start) { std::reverse(start.col4row.begin(), start.col4row.end()); });
  add("one column for all",
      [](Answer& start) { std::fill(start.col4row.begin(), start.col4row.end(), 0); });
  const auto own_columns = static_cast<std::int64_t>(own.col_duals.size());
  add("columns that don't exist", [=](Answer& start) {
    std::int64_t column = own_columns;
    for (std::int64_t& j : start.col4row) j = column++ % 2 ? -column : column;
    start.col4row[0] = std::numeric_limits<std::int64_t>::min();
  });
  return found;
}

// The warm start saves time and nothing else. Of large problems, each structure takes a few starts.
template <typename T>
void test_warm_starts() {
  std::size_t turn = 0;
  for (const Shape& shape :
       {Shape{1, 1}, Shape{12, 12}, Shape{70, 70}, Shape{20, 30}, Shape{321, 321}})
    for_each_structure<T>("warm", shape, [&](const Matrix& matrix, bool maximize) {
      const Buffer<T> buffer = contiguous<T>(matrix);
      const Answer cold = solve(buffer.view(), maximize);
      if (cold.status != AssignmentStatus::optimal) return;
      Random random(turn);
      Matrix changed = matrix;
      for (double& entry : changed.entries) entry += 0.01 * (uniform(random) - 0.5);
      const Buffer<T> nearby = contiguous<T>(changed);
      const std::string where = current_case;
      for (const auto& [name, start] : starts(cold, random)) {
        if (shape.first > 300 && turn++ % 3 != 0) continue;
        current_case = where + ", from " + name;
        check_answer(buffer.view(), maximize, solve(buffer.view(), maximize, &start));
        current_case += ", changed";
        check_answer(nearby.view(), maximize, solve(nearby.view(), maximize, &start));
      }
    });
}

// Interrupts at the first, fourth, sixteenth, ... poll until the solve gets through; returns its
// polls.
template <typename T>
int interrupt_everywhere(const MatrixView<T>& cost) {
  for (int stop_at = 1;; stop_at *= 4) {
    current_case = "interrupted at poll " + std::to_string(stop_at);
    int polls = 0;
    const Answer answer = solve(cost, false, nullptr, [&] { return ++polls == stop_at; });
    if (polls < stop_at) {
      check_answer(cost, false, answer);
      return polls;
    }
    CHECK(answer.status == AssignmentStatus::interrupted);
    CHECK(polls == stop_at);  // nobody asks again after a yes
  }
}

// Rows that want the same columns: small, and yet read for long enough to be polled.
template <typename T>
void test_interruption() {
  for (const Shape& shape : {Shape{40, 1 << 16}, Shape{260, 1 << 12}}) {
    Matrix matrix(shape.first, shape.second);
    Random random(0);
    const std::vector<double> row = random_vector(random, matrix.cols);
    matrix.fill([&](std::int64_t, std::int64_t j) { return row[j]; });
    const Buffer<T> buffer(matrix, 0, 1);
    CHECK(interrupt_everywhere(buffer.view()) > 1);
  }
}

template <typename T>
void test_constant_gives_the_identity() {
  for (const std::int64_t n : {1, 9, 64, 319, 320, 321, 360}) {
    current_case = "identity " + std::to_string(n);
    Matrix matrix(n, n);
    matrix.fill([](std::int64_t, std::int64_t) { return -2.5; });
    const Buffer<T> buffer = contiguous<T>(matrix);
    std::vector<std::int64_t> identity(n);
    std::iota(identity.begin(), identity.end(), 0);
    CHECK(solve(buffer.view(), false).col4row == identity);
    CHECK(solve(buffer.view(), true).col4row == identity);
  }
}

template <typename T>
void test_all() {
  test_layouts<T>();
  test_large<T>();
  test_scales<T>();
  test_brute_force<T>();
  test_invalid_entries<T>();
  test_warm_starts<T>();
  test_constant_gives_the_identity<T>();
}

}  // namespace
}  // namespace fastrebasin::tests

int main() {
  fastrebasin::tests::test_all<float>();
  fastrebasin::tests::test_all<double>();
  fastrebasin::tests::test_interruption<float>();
  std::puts("every assignment proved itself optimal");
}
