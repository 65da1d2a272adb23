#pragma once

#include <cstddef>
#include <cstdint>

namespace fastrebasin::cpu {

// The first two axes of an array, contiguous, and the bytes of what is behind them.
struct KernelsView {
  const std::byte* data;
  std::int64_t rows, cols;
  std::size_t bytes;
};

// For each unit, an entry of one axis, the kernels at `index` on the other: to `out`, contiguous,
// of shape (units, count, bytes). The units are the rows, or with `units_are_cols` the columns.
//
// A pass by whole kernels: by entries, or one axis after the other, it takes several times as long.
// A second thread would gain little, as this waits for memory. Every index must lie inside.
void gather_kernels(const KernelsView& array, bool units_are_cols, const std::int64_t* index,
                    std::int64_t count, std::byte* out);

}  // namespace fastrebasin::cpu
