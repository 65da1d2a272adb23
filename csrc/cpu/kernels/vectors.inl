// Vectors of doubles, or of costs, and what the row kernels do with their lanes. Included inside
// the namespace of an instruction set, by row_kernels.inl.

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

// Lane k's value in lane k ^ distance; compilers make it a single shuffle.
template <int distance>
inline Doubles swapped(Doubles v) {
  Doubles other;
  for (int lane = 0; lane < lanes; ++lane) other[lane] = v[lane ^ distance];
  return other;
}

template <int distance = lanes / 2>
inline double lowest_lane(Doubles v) {
  v = minimum(v, swapped<distance>(v));
  if constexpr (distance > 1) return lowest_lane<distance / 2>(v);
  return v[0];
}

template <typename T>
inline T lowest_of_sixteen(const T* values) {
  Doubles low = load(values);
  for (int k = lanes; k < 16; k += lanes) low = minimum(load(values + k), low);
  return static_cast<T>(lowest_lane(low));
}

// Leaves the lowest and second lowest of all lanes' best two in each lane.
template <int distance = lanes / 2>
inline void merge_lanes(Doubles& best, Doubles& second) {
  const Doubles other = swapped<distance>(best);
  second = minimum(maximum(best, other), minimum(second, swapped<distance>(second)));
  best = minimum(best, other);
  if constexpr (distance > 1) merge_lanes<distance / 2>(best, second);
}
