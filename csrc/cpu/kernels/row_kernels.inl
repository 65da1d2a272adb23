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
using Floats = float __attribute__((vector_size(FASTREBASIN_VECTOR_BYTES)));
using FloatMask = std::int32_t __attribute__((vector_size(FASTREBASIN_VECTOR_BYTES)));
using HalfFloats = float __attribute__((vector_size(FASTREBASIN_VECTOR_BYTES / 2)));

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
  HalfFloats v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Doubles);
}

// The entries of `values` that eight (or fewer) indices point at.
inline Doubles gather(const double* values, const std::int32_t* indices) {
#if defined(__AVX512F__)
  const __m256i at = _mm256_loadu_si256((const __m256i*)indices);
  return (Doubles)_mm512_mask_i32gather_pd(_mm512_setzero_pd(), 0xff, at, values, 8);
#elif defined(__AVX2__)
  const __m128i at = _mm_loadu_si128((const __m128i*)indices);
  const __m256d everywhere = (__m256d)(Mask{} == Mask{});
  return (Doubles)_mm256_mask_i32gather_pd(_mm256_setzero_pd(), values, at, everywhere, 8);
#else
  Doubles v;
  for (int lane = 0; lane < lanes; ++lane) v[lane] = values[indices[lane]];
  return v;
#endif
}

inline void store(double* p, Doubles v) { __builtin_memcpy(p, &v, sizeof v); }

inline Mask load_indices(const std::int64_t* p) {
  Mask v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(std::int64_t* p, Mask v) { __builtin_memcpy(p, &v, sizeof v); }

// What a full vector of each type of cost is; the passes that look for candidates work on these.
template <typename T>
struct Wide;
template <>
struct Wide<double> {
  using Values = Doubles;
  using Bits = Mask;
};
template <>
struct Wide<float> {
  using Values = Floats;
  using Bits = FloatMask;
};

template <typename T>
inline typename Wide<T>::Values load_wide(const T* p) {
  typename Wide<T>::Values v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline Doubles minimum(Doubles a, Doubles b) { return a < b ? a : b; }
inline Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
inline Doubles maximum(Doubles a, Doubles b) { return a > b ? a : b; }

// One bit for each lane of a mask, or of a comparison. The language of vectors has no word for
// this.
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

#if defined(__AVX512DQ__)
inline unsigned less_bits(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
inline unsigned less_bits(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline unsigned at_most_bits(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
inline unsigned at_most_bits(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline unsigned equal_bits(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
inline unsigned equal_bits(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
#else
inline unsigned lane_bits(FloatMask mask) {
#if defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < 2 * lanes; ++lane) bits |= unsigned(mask[lane] & 1) << lane;
  return bits;
#endif
}
inline unsigned less_bits(Doubles a, Doubles b) { return lane_bits(a < b); }
inline unsigned less_bits(Floats a, Floats b) { return lane_bits(a < b); }
inline unsigned at_most_bits(Doubles a, Doubles b) { return lane_bits(a <= b); }
inline unsigned at_most_bits(Floats a, Floats b) { return lane_bits(a <= b); }
inline unsigned equal_bits(Doubles a, Doubles b) { return lane_bits(a == b); }
inline unsigned equal_bits(Floats a, Floats b) { return lane_bits(a == b); }
#endif

template <typename Bits>
inline bool any(Bits mask) {
  return lane_bits(mask) != 0;
}

inline double lowest_lane(Doubles v) {
  double part[lanes];
  __builtin_memcpy(part, &v, sizeof v);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      part[lane] = part[lane + half] < part[lane] ? part[lane + half] : part[lane];
  return part[0];
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

// The lowest value and its column, the first of equals, from what each lane found.
inline Closest first_lowest(Doubles values, Mask cols) {
  const double lowest = lowest_lane(values);
  unsigned winners = at_most_bits(values, splat(lowest));
  std::int64_t col[lanes];
  __builtin_memcpy(col, &cols, sizeof cols);
  Closest found{lowest, col[__builtin_ctz(winners)]};
  while (winners &= winners - 1) {
    const std::int64_t other = col[__builtin_ctz(winners)];
    found.col = other < found.col ? other : found.col;
  }
  return found;
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
  const Closest first = first_lowest(best, col);
  BestTwo two{first.distance, lowest_lane(first.col == col ? second : best), first.col};
  if (first.distance == infinity) two.best_col = -1;
  for (; j < cols; ++j) {
    const double reduced = double(sign * row[j]) - price[j];
    if (reduced < two.best) {
      two = {reduced, two.best, j};
    } else if (reduced < two.second) {
      two.second = reduced;
    }
  }
  return two;
}

template <typename T>
BestTwo best_two_listed(const ListBlock<T>* blocks, std::int64_t count, const double* price) {
  Doubles best = splat(infinity), second = splat(infinity);
  Mask place{}, here{};
  for (int lane = 0; lane < lanes; ++lane) here[lane] = lane;
  for (std::int64_t k = 0; k < count; k += ListBlock<T>::size, ++blocks)
    for (int part = 0; part < ListBlock<T>::size; part += lanes) {
      const Doubles reduced = load(blocks->costs + part) - gather(price, blocks->columns + part);
      const Mask better = reduced < best;
      second = minimum(better ? best : reduced, second);
      best = better ? reduced : best;
      place = better ? here : place;
      here += lanes;
    }
  const double lowest = lowest_lane(best);
  if (lowest == infinity) return {infinity, infinity, -1};
  const int winner = __builtin_ctz(at_most_bits(best, splat(lowest)));
  Mask lane{};
  for (int k = 0; k < lanes; ++k) lane[k] = k;
  const double runner_up = lowest_lane(lane == winner ? second : best);
  std::int64_t places[lanes];
  __builtin_memcpy(places, &place, sizeof place);
  return {lowest, runner_up, places[winner]};
}

template <typename T>
Closest relax(const T* row, T sign, const double* price, std::int64_t cols, double offset,
              std::int64_t source, double* distance, std::int64_t* predecessor) {
  Doubles low = splat(infinity);
  const Doubles s = splat(sign);
  const Mask from = source - Mask{};
  Mask col{}, here{};
  for (int lane = 0; lane < lanes; ++lane) here[lane] = lane;
  std::int64_t j = 0;
  for (; j + lanes <= cols; j += lanes) {
    const Doubles through = (s * load(row + j) - load(price + j)) + splat(offset);
    const Doubles before = load(distance + j);
    const Mask closer = through < before;
    const Doubles after = closer ? through : before;
    store(distance + j, after);
    store(predecessor + j, closer ? from : load_indices(predecessor + j));
    const Mask lower = after < low;
    low = lower ? after : low;
    col = lower ? here : col;
    here += lanes;
  }
  Closest closest = first_lowest(low, col);
  for (; j < cols; ++j) {
    const double through = (double(sign * row[j]) - price[j]) + offset;
    if (through < distance[j]) {
      distance[j] = through;
      predecessor[j] = source;
    }
    if (distance[j] < closest.distance) closest = {distance[j], j};
  }
  if (closest.distance == infinity) closest.col = -1;
  return closest;
}

template <typename T>
std::int64_t find(const T* row, std::int64_t cols, T wanted, std::int64_t from) {
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T);
  const typename Wide<T>::Values w = wanted - typename Wide<T>::Values{};
  std::int64_t j = from;
  for (; j + width <= cols; j += width)
    if (const unsigned hits = equal_bits(load_wide(row + j), w)) return j + __builtin_ctz(hits);
  while (j < cols && row[j] != wanted) ++j;
  return j;
}

// The value of the given rank among sixteen, by counting for each those before it: more comparisons
// than a search needs, and few branches.
template <typename T>
inline T nth_of_sixteen(const T* values, int rank) {
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T);
  for (int k = 0; k < 16; ++k) {
    const typename Wide<T>::Values value = values[k] - typename Wide<T>::Values{};
    unsigned less = 0, at_most = 0;
    for (int j = 0; j < 16; j += width) {
      less |= less_bits(load_wide(values + j), value) << j;
      at_most |= at_most_bits(load_wide(values + j), value) << j;
    }
    if (__builtin_popcount(less) <= rank && rank < __builtin_popcount(at_most)) return values[k];
  }
  return values[0];
}

template <typename Values>
inline void order(Values& a, Values& b) {
  const Values low = minimum(a, b);
  b = a < b ? b : a;
  a = low;
}

// The row is dealt out to 64 groups, in four rounds of sixteen. Sorting the minima of each four
// groups gives sixteen lowest, second lowest, and so on: order statistics of these, without ever
// sorting 64 numbers. The ranks were set by measurement on random rows.
template <typename T>
bool measure(const T* row, T sign, const T* ceiling, std::int64_t cols, Depths<T>* depths) {
  using Values = typename Wide<T>::Values;
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T), per_round = 16 / width;
  constexpr unsigned all = (1u << width) - 1;
  const Values s = sign - Values{}, lowest = T(-infinity) - Values{};
  Values low[4 * per_round];
  for (Values& v : low) v = -lowest;
  unsigned above = all;
  std::int64_t j = 0;
  for (; j + 64 <= cols; j += 64) {
    for (std::int64_t ahead = 1024; ahead < 1024 + 64 * std::int64_t{sizeof(T)}; ahead += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(row + j) + ahead);
    for (int v = 0; v < 4 * per_round; ++v) {
      const Values reduced =
          s * load_wide(row + j + v * width) - load_wide(ceiling + j + v * width);
      above &= less_bits(lowest, reduced);  // false for NaN too
      low[v] = minimum(reduced, low[v]);
    }
  }
  bool valid = above == all;
  T minima[4][16];
  __builtin_memcpy(minima, low, sizeof minima);
  for (; j < cols; ++j) {
    const T reduced = sign * row[j] - ceiling[j];
    valid &= reduced > T(-infinity);
    T& least = minima[j / 16 % 4][j % 16];
    least = reduced < least ? reduced : least;
  }
  for (int v = 0; v < 16; v += width) {
    Values round[4];
    for (int k = 0; k < 4; ++k) round[k] = load_wide(minima[k] + v);
    order(round[0], round[1]);
    order(round[2], round[3]);
    order(round[0], round[2]);
    order(round[1], round[3]);
    order(round[1], round[2]);
    for (int k = 0; k < 4; ++k) __builtin_memcpy(minima[k] + v, &round[k], sizeof round[k]);
  }
  *depths = {nth_of_sixteen(minima[0], 0), nth_of_sixteen(minima[0], 5),
             nth_of_sixteen(minima[1], 10)};
  return valid;
}

// Writes first + k for each bit k that is set, and returns how many.
inline int append(unsigned bits, std::int64_t first, std::int32_t* columns) {
#if defined(__AVX512F__)
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i at = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), steps);
  _mm512_storeu_si512(columns, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), at));
  return __builtin_popcount(bits);
#else
  int count = 0;
  for (; bits != 0; bits &= bits - 1)
    columns[count++] = static_cast<std::int32_t>(first + __builtin_ctz(bits));
  return count;
#endif
}

template <typename T>
std::int64_t collect(const T* row, T sign, const T* ceiling, std::int64_t cols, T threshold,
                     std::int64_t start, std::int64_t capacity, std::int32_t* columns) {
  using Values = typename Wide<T>::Values;
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T);
  std::int64_t count = 0;
  const Values s = sign - Values{}, limit = threshold - Values{};
  const auto sweep = [&](std::int64_t begin, std::int64_t end) {
    std::int64_t j = begin;
    for (; j + width <= end && count < capacity; j += width) {
      const Values reduced = s * load_wide(row + j) - load_wide(ceiling + j);
      count += append(at_most_bits(reduced, limit), j, columns + count);
    }
    for (; j < end && count < capacity; ++j)
      if (sign * row[j] - ceiling[j] <= threshold) columns[count++] = static_cast<std::int32_t>(j);
  };
  sweep(start, cols);
  sweep(0, start);
  return count;
}

}  // namespace

extern const RowKernels<float> kernels_float;
extern const RowKernels<double> kernels_double;
const RowKernels<float> kernels_float{
    FASTREBASIN_ISA_NAME, range, best_two, relax, find, measure, collect, best_two_listed};
const RowKernels<double> kernels_double{
    FASTREBASIN_ISA_NAME, range, best_two, relax, find, measure, collect, best_two_listed};

}  // namespace fastrebasin::cpu::FASTREBASIN_ISA
