#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/assignment.hpp"

namespace fastrebasin::tests {

using Random = std::mt19937_64;

// Entries of an assignment problem, row by row.
struct Matrix {
  std::int64_t rows, cols;
  std::vector<double> entries;

  Matrix(std::int64_t rows, std::int64_t cols) : rows(rows), cols(cols), entries(rows * cols) {}
  double& at(std::int64_t i, std::int64_t j) { return entries[i * cols + j]; }
  double at(std::int64_t i, std::int64_t j) const { return entries[i * cols + j]; }

  template <typename Entry>
  void fill(Entry entry) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j) at(i, j) = entry(i, j);
  }
};

// Exact in every standard library, unlike the standard distributions.
inline double uniform(Random& random) { return double(random() >> 11) * 0x1p-53; }
inline std::int64_t below(Random& random, std::int64_t count) {
  return std::int64_t(random() % std::uint64_t(count));
}

// What solvers find hard in different ways: see `make`.
enum class Structure {
  uniform,
  constant,
  ties,
  rank_one,
  correlation,
  dead_units,
  mostly_dead_rows,
  mostly_dead_cols,
  planted,
  duplicates,
  near_ties,
  magnitudes,
  forbidden,
  sparse,
};
constexpr Structure structures[] = {
    Structure::uniform,          Structure::constant,         Structure::ties,
    Structure::rank_one,         Structure::correlation,      Structure::dead_units,
    Structure::mostly_dead_rows, Structure::mostly_dead_cols, Structure::planted,
    Structure::duplicates,       Structure::near_ties,        Structure::magnitudes,
    Structure::forbidden,        Structure::sparse,
};

// Correlations of units that have 8 causes in common; dead units correlate with nothing.
inline void fill_correlation(Matrix& matrix, Random& random, double dead_rows, double dead_cols) {
  constexpr int rank = 8;
  const auto factors = [&](std::int64_t count, double dead) {
    std::vector<double> values(count * rank);
    for (std::int64_t i = 0; i < count; ++i) {
      const double alive = uniform(random) < dead ? 0.0 : 1.0;
      for (int k = 0; k < rank; ++k) values[i * rank + k] = alive * (uniform(random) - 0.5);
    }
    return values;
  };
  const std::vector<double> a = factors(matrix.rows, dead_rows);
  const std::vector<double> b = factors(matrix.cols, dead_cols);
  matrix.fill([&](std::int64_t i, std::int64_t j) {
    double sum = 0.0;
    for (int k = 0; k < rank; ++k) sum += a[i * rank + k] * b[j * rank + k];
    return sum + 0.0;  // a dead unit's -0 is 0
  });
}

inline std::vector<double> random_vector(Random& random, std::int64_t count) {
  std::vector<double> values(count);
  for (double& value : values) value = uniform(random);
  return values;
}

// `forbidden` is what forbids an edge: +inf, or -inf to maximise. A share of `density` is allowed,
// and with `diagonal` one complete assignment for certain.
inline void forbid(Matrix& matrix, Random& random, double forbidden, double density,
                   bool diagonal) {
  for (std::int64_t i = 0; i < matrix.rows; ++i)
    for (std::int64_t j = 0; j < matrix.cols; ++j)
      if (uniform(random) > density && !(diagonal && i == j)) matrix.at(i, j) = forbidden;
}

inline Matrix make(Structure structure, std::int64_t rows, std::int64_t cols, Random& random,
                   double forbidden) {
  Matrix matrix(rows, cols);
  const auto noise = [&](std::int64_t, std::int64_t) { return uniform(random); };
  const auto digits = [&](std::int64_t, std::int64_t) { return double(below(random, 10)); };
  switch (structure) {
    case Structure::uniform:
      matrix.fill(noise);
      break;
    case Structure::constant:
      matrix.fill([](std::int64_t, std::int64_t) { return 0.7; });
      break;
    case Structure::ties:
      matrix.fill(digits);
      break;
    case Structure::rank_one: {
      const std::vector<double> a = random_vector(random, rows), b = random_vector(random, cols);
      matrix.fill([&](std::int64_t i, std::int64_t j) { return a[i] * b[j]; });
      break;
    }
    case Structure::correlation:
      fill_correlation(matrix, random, 0.0, 0.0);
      break;
    case Structure::dead_units:
      fill_correlation(matrix, random, 0.25, 0.25);
      break;
    case Structure::mostly_dead_rows:
      fill_correlation(matrix, random, 0.8, 0.1);
      break;
    case Structure::mostly_dead_cols:
      fill_correlation(matrix, random, 0.1, 0.8);
      break;
    case Structure::planted:
      matrix.fill([&](std::int64_t i, std::int64_t j) {
        return uniform(random) - ((i * 7 + 3) % std::max<std::int64_t>(cols, 1) == j ? 2.0 : 0.0);
      });
      break;
    case Structure::duplicates:  // few different rows and few different columns
      matrix.fill(noise);
      matrix.fill([&](std::int64_t i, std::int64_t j) { return matrix.at(i % 5, j % 7); });
      break;
    case Structure::near_ties:  // apart by what the last bits of a float can tell
      matrix.fill([&](std::int64_t, std::int64_t) {
        return 1.0 + double(below(random, 4)) * double(std::numeric_limits<float>::epsilon());
      });
      break;
    case Structure::magnitudes:
      matrix.fill([&](std::int64_t, std::int64_t) {
        return uniform(random) * (below(random, 3) == 0 ? 1e6 : 1.0);
      });
      break;
    case Structure::forbidden:
      matrix.fill(noise);
      forbid(matrix, random, forbidden, 0.3, true);
      break;
    case Structure::sparse:  // often without any complete assignment
      matrix.fill(digits);
      forbid(matrix, random, forbidden, std::min(1.0, 6.0 / double(cols + 1)), false);
      break;
  }
  return matrix;
}

// A matrix in memory, with these strides in elements, in a block of exactly the size it takes: a
// sanitizer sees any read beyond its ends, and a read of what lies between entries finds NaN.
template <typename T>
class Buffer {
 public:
  Buffer(const Matrix& matrix, std::ptrdiff_t row_stride, std::ptrdiff_t col_stride)
      : view_{nullptr, matrix.rows, matrix.cols, row_stride, col_stride} {
    if (matrix.entries.empty()) return;
    const std::ptrdiff_t down = (matrix.rows - 1) * row_stride;
    const std::ptrdiff_t across = (matrix.cols - 1) * col_stride;
    const std::ptrdiff_t first =
        std::min<std::ptrdiff_t>(down, 0) + std::min<std::ptrdiff_t>(across, 0);
    const std::ptrdiff_t last =
        std::max<std::ptrdiff_t>(down, 0) + std::max<std::ptrdiff_t>(across, 0);
    memory_.assign(last - first + 1, std::numeric_limits<T>::quiet_NaN());
    view_.data = memory_.data() - first;
    for (std::int64_t i = 0; i < matrix.rows; ++i)
      for (std::int64_t j = 0; j < matrix.cols; ++j)
        memory_[i * row_stride + j * col_stride - first] = static_cast<T>(matrix.at(i, j));
  }

  const cpu::MatrixView<T>& view() const { return view_; }

 private:
  std::vector<T> memory_;
  cpu::MatrixView<T> view_;
};

template <typename T>
Buffer<T> contiguous(const Matrix& matrix) {
  return Buffer<T>(matrix, matrix.cols, 1);
}

}  // namespace fastrebasin::tests
