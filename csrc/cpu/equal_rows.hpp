#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// For each row a row with the same entries, the same one for all of them that are found: rows that
// agree at a few places are compared. Some that are equal may be missed where many nearly are.
template <typename T>
std::vector<std::int64_t> equal_rows(const Problem<T>& problem) {
  constexpr std::int64_t glances = 8;
  const std::int64_t count = problem.rows(), last = problem.cols() - 1;
  std::vector<std::uint64_t> hashes(count);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t k = 0; k < glances; ++k) {
      std::uint64_t entry = 0;
      std::memcpy(&entry, problem.row(i) + last * k / (glances - 1), sizeof(T));
      hashes[i] = (hashes[i] ^ entry) * 0x9e3779b97f4a7c15u;
    }
  std::vector<std::int64_t> order(count), equal(count);
  std::iota(order.begin(), order.end(), 0);
  std::iota(equal.begin(), equal.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return hashes[a] < hashes[b]; });
  const std::size_t bytes = problem.cols() * sizeof(T);
  for (std::int64_t k = 1; k < count; ++k) {
    const std::int64_t i = order[k], other = equal[order[k - 1]];
    if (hashes[i] == hashes[other] && std::memcmp(problem.row(i), problem.row(other), bytes) == 0)
      equal[i] = other;
  }
  return equal;
}

}  // namespace fastrebasin::cpu
