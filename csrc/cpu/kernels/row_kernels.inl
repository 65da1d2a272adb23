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

#include "cpu/kernels/vectors.inl"

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

// The first of the places that lanes with the lowest value name.
inline std::int64_t first_lowest(Doubles values, Mask places) {
  const double lowest = lowest_lane(values);
  unsigned winners = at_most_bits(values, splat(lowest));
  std::int64_t place[lanes];
  __builtin_memcpy(place, &places, sizeof places);
  std::int64_t first = place[__builtin_ctz(winners)];
  while (winners &= winners - 1) {
    const std::int64_t other = place[__builtin_ctz(winners)];
    first = other < first ? other : first;
  }
  return first;
}

// The columns that are searched together once it is known that the lowest value is among them.
constexpr std::int64_t searched = 64;

// Which of these columns, from `begin` on and before `end`, have a value of at most `limit`; a
// multiple of lanes. One word of bits, because a branch for each vector would be guessed wrong.
template <typename ValuesAt>
inline std::uint64_t columns_at_most(double limit, std::int64_t begin, std::int64_t end,
                                     ValuesAt values_at) {
  const std::int64_t stop = begin + searched < end ? begin + searched : end;
  std::uint64_t bits = 0;
  for (std::int64_t j = begin; j < stop; j += lanes)
    bits |= std::uint64_t{at_most_bits(values_at(j), splat(limit))} << (j - begin);
  return bits;
}

// Calls visit(j, low) for each vector of columns before `end`; it lowers `low`. Returns from where
// on the lowest value is among the next `searched` columns: the first such place.
template <typename Visit>
inline std::int64_t visit_lowering(Doubles& low, std::int64_t end, Visit visit) {
  Mask from{};
  for (std::int64_t begin = 0; begin < end; begin += searched) {
    const std::int64_t stop = begin + searched < end ? begin + searched : end;
    const Doubles before = low;
    for (std::int64_t j = begin; j < stop; j += lanes) visit(j, low);
    from = low < before ? begin - Mask{} : from;
  }
  return end <= searched ? 0 : first_lowest(low, from);
}

template <typename T>
BestTwo best_two(const T* row, T sign, const double* price, std::int64_t cols) {
  Doubles best = splat(infinity), second = splat(infinity);
  const Doubles s = splat(sign);
  const auto reduced_at = [&](std::int64_t j) { return s * load(row + j) - load(price + j); };
  const std::int64_t end = cols - cols % lanes;
  const std::int64_t from = visit_lowering(best, end, [&](std::int64_t j, Doubles& low) {
    const Doubles reduced = reduced_at(j);
    second = minimum(maximum(low, reduced), second);
    low = minimum(reduced, low);
  });
  merge_lanes(best, second);
  BestTwo two{best[0], second[0], -1};
  if (two.best < infinity)
    two.best_col = from + __builtin_ctzll(columns_at_most(two.best, from, end, reduced_at));
  for (std::int64_t j = end; j < cols; ++j) {
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
bool at_least(const T* row, T sign, const double* price, std::int64_t cols, double limit) {
  const Doubles s = splat(sign), least = splat(limit);
  constexpr unsigned all = (1u << lanes) - 1;
  std::int64_t j = 0;
  while (j + lanes <= cols) {
    unsigned holds = all;
    const std::int64_t stop = j + searched < cols ? j + searched : cols;
    for (; j + lanes <= stop; j += lanes)
      holds &= at_most_bits(least, s * load(row + j) - load(price + j));  // false for NaN too
    if (holds != all) return false;
  }
  for (; j < cols; ++j)
    if (!(double(sign * row[j]) - price[j] >= limit)) return false;
  return true;
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
  const Doubles of_lane = best;
  merge_lanes(best, second);
  if (best[0] == infinity) return {infinity, infinity, -1};
  std::int64_t places[lanes];
  __builtin_memcpy(places, &place, sizeof place);
  return {best[0], second[0], places[__builtin_ctz(at_most_bits(of_lane, best))]};
}

template <typename T>
Closest relax(const T* row, T sign, const double* price, std::int64_t cols, double offset,
              std::int64_t source, double* distance, std::int64_t* predecessor) {
  Doubles low = splat(infinity);
  const Doubles s = splat(sign);
  const Mask sources = source - Mask{};
  const std::int64_t end = cols - cols % lanes;
  const std::int64_t from = visit_lowering(low, end, [&](std::int64_t j, Doubles& lowest) {
    const Doubles through = (s * load(row + j) - load(price + j)) + splat(offset);
    const Doubles before = load(distance + j);
    const Mask closer = through < before;
    const Doubles after = minimum(through, before);
    store(distance + j, after);
    store(predecessor + j, closer ? sources : load_indices(predecessor + j));
    lowest = minimum(after, lowest);
  });
  Closest closest{lowest_lane(low), -1, cols > searched};
  if (closest.distance < infinity) {
    const auto distances_at = [&](std::int64_t j) { return load(distance + j); };
    const std::uint64_t bits = columns_at_most(closest.distance, from, end, distances_at);
    closest.col = from + __builtin_ctzll(bits);
    closest.tied |= (bits & (bits - 1)) != 0;
  }
  for (std::int64_t j = end; j < cols; ++j) {
    const double through = (double(sign * row[j]) - price[j]) + offset;
    if (through < distance[j]) {
      distance[j] = through;
      predecessor[j] = source;
    }
    closest.tied |= distance[j] == closest.distance;
    if (distance[j] < closest.distance) closest = {distance[j], j, cols > searched};
  }
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

// The value of the given rank among sixteen: the highest that has no more than `rank` below it.
template <typename T>
inline T nth_of_sixteen(const T* values, int rank) {
  using Values = typename Wide<T>::Values;
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T);
  typename Wide<T>::Bits below[16 / width] = {};
  for (int k = 0; k < 16; ++k)
    for (int v = 0; v < 16 / width; ++v)
      below[v] -= (values[k] - Values{}) < load_wide(values + v * width);  // true is -1
  T negated[16];
  for (int v = 0; v < 16 / width; ++v) {
    const Values candidates =
        below[v] <= rank ? -load_wide(values + v * width) : T(infinity) - Values{};
    __builtin_memcpy(negated + v * width, &candidates, sizeof candidates);
  }
  return -lowest_of_sixteen(negated);
}

template <typename Values>
inline void order(Values& a, Values& b) {
  const Values low = minimum(a, b);
  b = a < b ? b : a;
  a = low;
}

// The row is dealt out to 64 groups, in four rounds of sixteen; each round reads a quarter of the
// row, because processors fetch several streams at once. Sorting the minima of each four groups
// gives sixteen lowest, second lowest, and so on: order statistics of these, without ever sorting
// 64 numbers. The ranks were set by measurement on random rows.
template <typename T>
bool measure(const T* row, T sign, const T* ceiling, std::int64_t cols, Depths<T>* depths) {
  using Values = typename Wide<T>::Values;
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T), per_round = 16 / width;
  constexpr unsigned all = (1u << width) - 1;
  const Values s = sign - Values{}, lowest = T(-infinity) - Values{};
  Values low[4 * per_round];
  for (Values& v : low) v = -lowest;
  unsigned above = all;
  const std::int64_t quarter = cols / 64 * 16;
  for (std::int64_t k = 0; k < quarter; k += 16)
    for (int v = 0; v < 4 * per_round; ++v) {
      const std::int64_t at = v / per_round * quarter + k + v % per_round * width;
      const Values reduced = s * load_wide(row + at) - load_wide(ceiling + at);
      above &= less_bits(lowest, reduced);  // false for NaN too
      low[v] = minimum(reduced, low[v]);
    }
  bool valid = above == all;
  T minima[4][16];
  __builtin_memcpy(minima, low, sizeof minima);
  for (std::int64_t j = 4 * quarter; j < cols; ++j) {
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
  *depths = {lowest_of_sixteen(minima[0]), nth_of_sixteen(minima[0], 5),
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
                     std::int64_t start, std::int64_t capacity, const T* next,
                     std::int32_t* columns) {
  using Values = typename Wide<T>::Values;
  constexpr int width = FASTREBASIN_VECTOR_BYTES / sizeof(T);
  std::int64_t count = 0;
  const Values s = sign - Values{}, limit = threshold - Values{};
  const auto sweep = [&](std::int64_t begin, std::int64_t end) {
    std::int64_t j = begin;
    for (; j + width <= end && count < capacity; j += width) {
      const Values reduced = s * load_wide(row + j) - load_wide(ceiling + j);
      __builtin_prefetch(next + j);
      count += append(at_most_bits(reduced, limit), j, columns + count);
    }
    for (; j < end && count < capacity; ++j)
      if (sign * row[j] - ceiling[j] <= threshold) columns[count++] = static_cast<std::int32_t>(j);
  };
  sweep(start, cols);
  sweep(0, start);
  return count;
}

// Writes those of eight values whose bits are set one behind the other, and up to seven more.
template <typename T>
inline void compress(const T* from, unsigned bits, T* to) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask8>(bits);
  if constexpr (sizeof(T) == 8) {
    _mm512_storeu_pd(to, _mm512_maskz_compress_pd(mask, _mm512_loadu_pd(from)));
  } else {
    const __m256i eight = _mm256_loadu_si256((const __m256i*)from);
    _mm256_storeu_si256((__m256i*)to, _mm256_maskz_compress_epi32(mask, eight));
  }
#else
  for (int k = 0; k < 8; to += bits >> k++ & 1) *to = from[k];
#endif
}

template <typename T>
std::int64_t partition(ListBlock<T>* blocks, std::int64_t count, const double* price,
                       double limit) {
  constexpr int size = ListBlock<T>::size;
  T costs[2][list_capacity + size];
  std::int32_t columns[2][list_capacity + size];
  std::int64_t counts[2] = {};
  for (std::int64_t first = 0; first < count; first += size) {
    const ListBlock<T>& block = blocks[first / size];
    unsigned near = 0;
    for (int part = 0; part < size; part += lanes)
      near |=
          at_most_bits(load(block.costs + part) - gather(price, block.columns + part), splat(limit))
          << part;
    const unsigned listed = count - first < size ? (1u << (count - first)) - 1 : 0xff;
    for (int far = 0; far < 2; ++far) {
      const unsigned bits = (far ? ~near : near) & listed;
      compress(block.costs, bits, costs[far] + counts[far]);
      compress(block.columns, bits, columns[far] + counts[far]);
      counts[far] += __builtin_popcount(bits);
    }
  }
  for (std::int64_t k = 0; k < counts[1]; ++k) {
    costs[0][counts[0] + k] = costs[1][k];
    columns[0][counts[0] + k] = columns[1][k];
  }
  for (std::int64_t k = count; k < count + size; ++k) {
    costs[0][k] = T(infinity);
    columns[0][k] = 0;
  }
  for (std::int64_t first = 0; first < count; first += size) {
    __builtin_memcpy(blocks[first / size].costs, costs[0] + first, sizeof blocks->costs);
    __builtin_memcpy(blocks[first / size].columns, columns[0] + first, sizeof blocks->columns);
  }
  return counts[0];
}

#include "cpu/kernels/small_problem.inl"

}  // namespace

extern const RowKernels<float> kernels_float;
extern const RowKernels<double> kernels_double;
const RowKernels<float> kernels_float{
    FASTREBASIN_ISA_NAME, range,     best_two,   at_least, relax, find, measure, collect,
    best_two_listed,      partition, solve_small};
const RowKernels<double> kernels_double{
    FASTREBASIN_ISA_NAME, range,     best_two,   at_least, relax, find, measure, collect,
    best_two_listed,      partition, solve_small};

}  // namespace fastrebasin::cpu::FASTREBASIN_ISA
