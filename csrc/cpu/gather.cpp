#include "cpu/gather.hpp"

#include <algorithm>
#include <cstring>

namespace fastrebasin::cpu {
namespace {

// Units at a time: their kernels in one row, and where they go, stay in the cache.
constexpr std::int64_t units_at_a_time = 32;

// `size` returns the bytes of a kernel, as a constant where it is a usual one: copies are then a
// few vector moves instead of a call.
template <typename Size>
void gather(const KernelsView& array, bool units_are_cols, const std::int64_t* index,
            std::int64_t count, std::byte* out, Size size) {
  const std::size_t bytes = size();
  const auto copy = [&](std::int64_t unit, std::int64_t k, std::int64_t from) {
    std::memcpy(out + (unit * count + k) * bytes, array.data + from * bytes, bytes);
  };
  if (!units_are_cols) {
    for (std::int64_t unit = 0; unit < array.rows; ++unit)
      for (std::int64_t k = 0; k < count; ++k) copy(unit, k, unit * array.cols + index[k]);
    return;
  }
  for (std::int64_t first = 0; first < array.cols; first += units_at_a_time) {
    const std::int64_t last = std::min(array.cols, first + units_at_a_time);
    for (std::int64_t k = 0; k < count; ++k)
      for (std::int64_t unit = first; unit < last; ++unit)
        copy(unit, k, index[k] * array.cols + unit);
  }
}

}  // namespace

void gather_kernels(const KernelsView& array, bool units_are_cols, const std::int64_t* index,
                    std::int64_t count, std::byte* out) {
  const auto with = [&](auto size) { gather(array, units_are_cols, index, count, out, size); };
  switch (array.bytes) {
    case 0:
      return;
    case 9 * sizeof(float):
      return with([] { return 9 * sizeof(float); });
    case 9 * sizeof(double):
      return with([] { return 9 * sizeof(double); });
    default:
      return with([&] { return array.bytes; });
  }
}

}  // namespace fastrebasin::cpu
