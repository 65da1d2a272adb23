// The row kernels, written with the vector extensions of GCC and Clang. A file that includes this
// defines FASTREBASIN_ISA (a namespace) and FASTREBASIN_VECTOR_BYTES, and is compiled for that
// instruction set. No standard header may be used here: an inline function of one, compiled for a
// newer processor, could be linked into the code for older ones.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/kernels/row_kernels.hpp"

namespace fastrebasin::cpu::FASTREBASIN_ISA {
namespace {

constexpr int lanes = FASTREBASIN_VECTOR_BYTES / 8;
constexpr double infinity = __builtin_inf();

using Doubles = double __attribute__((vector_size(FASTREBASIN_VECTOR_BYTES)));
using Mask = std::int64_t __attribute__((vector_size(FASTREBASIN_VECTOR_BYTES)));
using Floats = float __attribute__((vector_size(FASTREBASIN_VECTOR_BYTES / 2)));

inline Doubles splat(double x) { return x - Doubles{}; }

inline Doubles load(const double* p) {
  Doubles v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline Doubles load(const float* p) {
#if defined(__AVX512DQ__)
  // GCC 12 converts halves otherwise, and warns of its own header without the mask.
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p));
#endif
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Doubles);
}

inline void store(double* p, Doubles v) { __builtin_memcpy(p, &v, sizeof v); }

inline Mask load_indices(const std::int64_t* p) {
  Mask v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(std::int64_t* p, Mask v) { __builtin_memcpy(p, &v, sizeof v); }

inline Doubles minimum(Doubles a, Doubles b) { return a < b ? a : b; }
inline Doubles maximum(Doubles a, Doubles b) { return a > b ? a : b; }

// One bit for each lane of a mask. The language of vectors has no word for this.
inline unsigned lane_bits(Mask mask) {
#if defined(__AVX512DQ__)
  return _mm512_movepi64_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_pd((__m256d)mask));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < lanes; ++lane) bits |= unsigned(mask[lane] & 1) << lane;
  return bits;
#endif
}

inline bool any(Mask mask) { return lane_bits(mask) != 0; }

inline double lowest_lane(Doubles v) {
  double lowest = v[0];
  for (int lane = 1; lane < lanes; ++lane) lowest = v[lane] < lowest ? v[lane] : lowest;
  return lowest;
}

template <typename T>
RowRange range(const T* row, T sign, std::int64_t cols) {
  Doubles low = splat(infinity), high = splat(-infinity);
  Mask bad{};
  const Doubles s = splat(sign);
  std::int64_t j = 0;
  for (; j + lanes <= cols; j += lanes) {
    const Doubles cost = s * load(row + j);
    bad |= ~(cost > splat(-infinity));  // NaN compares false too
    low = minimum(cost, low);
    high = maximum(cost, high);
  }
  RowRange found{lowest_lane(low), -lowest_lane(-high), !any(bad)};
  for (; j < cols; ++j) {
    const double cost = double(sign * row[j]);
    found.valid &= cost > -infinity;
    found.lowest = cost < found.lowest ? cost : found.lowest;
    found.highest = cost > found.highest ? cost : found.highest;
  }
  return found;
}

inline void insert(BestTwo& two, double reduced, std::int64_t j) {
  if (reduced < two.best || (reduced == two.best && j < two.best_col)) {
    two = {reduced, two.best, j};
  } else if (reduced < two.second) {
    two.second = reduced;
  }
}

template <typename T>
BestTwo best_two(const T* row, T sign, const double* price, std::int64_t cols) {
  Doubles best = splat(infinity), second = splat(infinity);
  Mask col{}, here{};
  for (int lane = 0; lane < lanes; ++lane) here[lane] = lane;
  const Doubles s = splat(sign);
  std::int64_t j = 0;
  for (; j + lanes <= cols; j += lanes) {
    const Doubles reduced = s * load(row + j) - load(price + j);
    const Mask better = reduced < best;
    second = minimum(better ? best : reduced, second);
    best = better ? reduced : best;
    col = better ? here : col;
    here += lanes;
  }
  BestTwo two{infinity, infinity, -1};
  for (int lane = 0; lane < lanes; ++lane) {
    insert(two, best[lane], col[lane]);
    two.second = second[lane] < two.second ? second[lane] : two.second;
  }
  for (; j < cols; ++j) insert(two, double(sign * row[j]) - price[j], j);
  return two;
}

template <typename T>
double relax(const T* row, T sign, const double* price, std::int64_t cols, double offset,
             std::int64_t source, double* distance, std::int64_t* predecessor) {
  Doubles low = splat(infinity);
  const Doubles s = splat(sign);
  const Mask from = source - Mask{};
  std::int64_t j = 0;
  for (; j + lanes <= cols; j += lanes) {
    const Doubles through = (s * load(row + j) - load(price + j)) + splat(offset);
    const Doubles before = load(distance + j);
    const Mask closer = through < before;
    const Doubles after = closer ? through : before;
    store(distance + j, after);
    store(predecessor + j, closer ? from : load_indices(predecessor + j));
    low = minimum(after, low);
  }
  double lowest = lowest_lane(low);
  for (; j < cols; ++j) {
    const double through = (double(sign * row[j]) - price[j]) + offset;
    if (through < distance[j]) {
      distance[j] = through;
      predecessor[j] = source;
    }
    lowest = distance[j] < lowest ? distance[j] : lowest;
  }
  return lowest;
}

// Sorts by counting, for each value, those before it: more comparisons than a sort needs, and not
// one branch.
inline void sort_groups(double* values) {
  double sorted[row_groups];
  Mask here[row_groups / lanes];
  for (std::int64_t j = 0; j < row_groups; ++j) here[j / lanes][j % lanes] = j;
  for (std::int64_t k = 0; k < row_groups; ++k) {
    const Doubles value = splat(values[k]);
    Mask before{};
    for (std::int64_t j = 0; j < row_groups; j += lanes) {
      const Doubles other = load(values + j);
      before -= (other < value) | ((other == value) & (here[j / lanes] < k));
    }
    std::int64_t rank = 0;
    for (int lane = 0; lane < lanes; ++lane) rank += before[lane];
    sorted[rank] = values[k];
  }
  for (std::int64_t k = 0; k < row_groups; ++k) values[k] = sorted[k];
}

template <typename T>
bool group_minima(const T* row, T sign, const double* price, std::int64_t cols, double* minima) {
  constexpr int vectors = row_groups / lanes;
  Doubles low[vectors];
  for (int v = 0; v < vectors; ++v) low[v] = splat(infinity);
  const Doubles s = splat(sign);
  std::int64_t j = 0;
  Mask bad{};
  for (; j + row_groups <= cols; j += row_groups)
    for (int v = 0; v < vectors; ++v) {
      const Doubles reduced = s * load(row + j + v * lanes) - load(price + j + v * lanes);
      bad |= ~(reduced > splat(-infinity));  // NaN compares false too
      low[v] = minimum(reduced, low[v]);
    }
  for (int v = 0; v < vectors; ++v) store(minima + v * lanes, low[v]);
  bool valid = !any(bad);
  for (; j < cols; ++j) {
    const double reduced = double(sign * row[j]) - price[j];
    valid &= reduced > -infinity;
    double& least = minima[j % row_groups];
    least = reduced < least ? reduced : least;
  }
  if (valid) sort_groups(minima);
  return valid;
}

template <typename T>
Collected collect(const T* row, T sign, const double* price, std::int64_t cols, double threshold,
                  std::int64_t start, std::int64_t capacity, std::int32_t* columns,
                  double* reduced) {
  constexpr int vectors = row_groups / lanes;
  Collected found{0, infinity};
  const Doubles s = splat(sign), limit = splat(threshold);
  const auto take = [&](std::int64_t j) {
    const double r = double(sign * row[j]) - price[j];
    if (!(r <= threshold) || r == infinity) return;
    if (found.count < capacity) {
      columns[found.count] = static_cast<std::int32_t>(j);
      reduced[found.count++] = r;
    } else if (r < found.smallest_missed) {
      found.smallest_missed = r;
    }
  };
  const auto sweep = [&](std::int64_t begin, std::int64_t end) {
    std::int64_t j = begin;
    for (; j + row_groups <= end; j += row_groups) {
      std::uint32_t hits = 0;
      for (int v = 0; v < vectors; ++v) {
        const Doubles cost = s * load(row + j + v * lanes);
        hits |= lane_bits(cost - load(price + j + v * lanes) <= limit) << (v * lanes);
      }
      for (; hits != 0; hits &= hits - 1) take(j + __builtin_ctz(hits));
    }
    for (; j < end; ++j) take(j);
  };
  sweep(start, cols);
  sweep(0, start);
  return found;
}

std::int64_t find(const double* values, std::int64_t cols, double wanted, std::int64_t from) {
  std::int64_t j = from;
  const Doubles w = splat(wanted);
  for (; j + lanes <= cols; j += lanes)
    if (any(load(values + j) == w)) break;
  while (j < cols && values[j] != wanted) ++j;
  return j;
}

}  // namespace

extern const RowKernels<float> kernels_float;
extern const RowKernels<double> kernels_double;
const RowKernels<float> kernels_float{FASTREBASIN_ISA_NAME, range,   best_two, relax,
                                      group_minima,         collect, find};
const RowKernels<double> kernels_double{FASTREBASIN_ISA_NAME, range,   best_two, relax,
                                        group_minima,         collect, find};

}  // namespace fastrebasin::cpu::FASTREBASIN_ISA
