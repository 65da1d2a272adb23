#include "cpu/gather.hpp"

#include <algorithm>
#include <cstring>

#include "cpu/parallel.hpp"

namespace fastrebasin::cpu {
namespace {

// Units at a time: their kernels in one row, and where they go, stay in the cache.
constexpr std::int64_t units_at_a_time = 32;
// Copying this many bytes takes several times as long as starting a thread.
constexpr std::int64_t bytes_per_thread = std::int64_t{1} << 19;

// A range of units. `size` returns the bytes of a kernel, as a constant where it is a usual one:
// copies are then a few vector moves instead of a call.
template <typename Size>
void gather(const KernelsView& array, bool units_are_cols, const std::int64_t* index,
            std::int64_t count, std::byte* out, std::int64_t first, std::int64_t last, Size size) {
  const std::size_t bytes = size();
  const auto copy = [&](std::int64_t unit, std::int64_t k) {
    const std::int64_t from =
        units_are_cols ? index[k] * array.cols + unit : unit * array.cols + index[k];
    std::memcpy(out + (unit * count + k) * bytes, array.data + from * bytes, bytes);
  };
  if (units_are_cols) {
    for (std::int64_t k = 0; k < count; ++k)
      for (std::int64_t unit = first; unit < last; ++unit) copy(unit, k);
  } else {
    for (std::int64_t unit = first; unit < last; ++unit)
      for (std::int64_t k = 0; k < count; ++k) copy(unit, k);
  }
}

}  // namespace

void gather_kernels(const KernelsView& array, bool units_are_cols, const std::int64_t* index,
                    std::int64_t count, std::byte* out, int threads) {
  const std::int64_t units = units_are_cols ? array.cols : array.rows;
  const std::int64_t tasks = (units + units_at_a_time - 1) / units_at_a_time;
  const std::int64_t worth =
      units * count * static_cast<std::int64_t>(array.bytes) / bytes_per_thread;
  const auto useful = static_cast<int>(std::min<std::int64_t>(threads, worth));
  parallel_for(
      tasks, useful, [] { return false; },
      [&](std::int64_t task, const Poll&) {
        const std::int64_t first = task * units_at_a_time;
        const std::int64_t last = std::min(units, first + units_at_a_time);
        const auto with = [&](auto size) {
          gather(array, units_are_cols, index, count, out, first, last, size);
        };
        switch (array.bytes) {
          case 9 * sizeof(float):
            return with([] { return 9 * sizeof(float); });
          case 9 * sizeof(double):
            return with([] { return 9 * sizeof(double); });
          default:
            return with([&] { return array.bytes; });
        }
      });
}

}  // namespace fastrebasin::cpu
