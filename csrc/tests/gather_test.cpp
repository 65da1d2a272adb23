// Gathered kernels beside plain indexing, in memory of exactly their size: a sanitizer sees any
// read or write beyond its ends.

#include "cpu/gather.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "check.hpp"
#include "matrices.hpp"

namespace fastrebasin::tests {
namespace {

std::byte entry(std::int64_t row, std::int64_t col, std::size_t byte) {
  return static_cast<std::byte>(131 * row + 31 * col + 7 * std::int64_t(byte));
}

void test_shape(std::int64_t rows, std::int64_t cols, std::size_t bytes, bool units_are_cols,
                Random& random) {
  std::vector<std::byte> array;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      for (std::size_t k = 0; k < bytes; ++k) array.push_back(entry(i, j, k));
  const std::int64_t units = units_are_cols ? cols : rows, others = units_are_cols ? rows : cols;
  std::vector<std::int64_t> index;
  for (std::int64_t k = 0; others > 0 && k < 5; ++k) index.push_back(below(random, others));
  const auto count = static_cast<std::int64_t>(index.size());
  std::vector<std::byte> out(units * count * bytes, std::byte{0xAA});
  cpu::gather_kernels({array.data(), rows, cols, bytes}, units_are_cols, index.data(), count,
                      out.data());
  const std::byte* found = out.data();
  for (std::int64_t unit = 0; unit < units; ++unit)
    for (const std::int64_t other : index)
      for (std::size_t k = 0; k < bytes; ++k)
        CHECK(*found++ == (units_are_cols ? entry(other, unit, k) : entry(unit, other, k)));
}

}  // namespace
}  // namespace fastrebasin::tests

int main() {
  using namespace fastrebasin::tests;
  Random random(0);
  for (const std::int64_t rows : {0, 1, 7, 33})
    for (const std::int64_t cols : {0, 1, 31, 32, 65})
      for (const std::size_t bytes : {0, 4, 36, 72, 100})
        for (const bool units_are_cols : {false, true}) {
          current_case =
              std::to_string(rows) + " x " + std::to_string(cols) + " x " + std::to_string(bytes);
          test_shape(rows, cols, bytes, units_are_cols, random);
        }
  std::puts("kernels are where indexing finds them");
}
