#pragma once

// Stands in for what the tensor cores do: the same words in the same lanes, multiplied one by one.
// Lanes read each other's words where they lie, between two meetings of the warp.

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

#include "cuda/correlation.hpp"
#include "cuda/elements.cuh"

namespace fastrebasin::cuda {

inline unsigned rounded_word(float value) {
  const unsigned bits = __float_as_uint(value);
  return value - value == 0 ? (bits + 0x1000u) & 0xFFFFE000u : bits;
}

inline unsigned rounded_word(float first, float second) {
  const auto rounded = [](float value) {
    const unsigned bits = __float_as_uint(value);
    return (value - value == 0 ? bits + 0x7FFFu + (bits >> 16 & 1u) : bits) >> 16;
  };
  return rounded(first) | rounded(second) << 16;
}

// What is left of 32 bits in TF32.
inline float cut_off(unsigned word) { return __uint_as_float(word & 0xFFFFE000u); }

// Of two values: the small products first.
inline float half_products(const Halves& a, const Halves& b) {
  return cut_off(a.rest) * cut_off(b.leading) + cut_off(a.leading) * cut_off(b.rest) +
         cut_off(a.leading) * cut_off(b.leading);
}

template <Precision precision>
float word_product(unsigned a, unsigned b) {
  if (precision == Precision::medium)
    return widened_bfloat16(a & 0xFFFFu) * widened_bfloat16(b & 0xFFFFu) +
           widened_bfloat16(a >> 16) * widened_bfloat16(b >> 16);
  if (precision == Precision::high) return cut_off(a) * cut_off(b);
  return half_products(halves_of(a), halves_of(b));
}

template <Precision precision, int rows, int cols>
void add_products(const unsigned (&a)[rows][4], const unsigned (&b)[cols][2],
                  float (&sums)[rows][cols][4]) {
  struct Words {
    const unsigned (*a)[4];
    const unsigned (*b)[2];
  };
  const Words mine{a, b};
  constexpr unsigned all = 0xFFFFFFFF;
  const auto here = reinterpret_cast<std::uintptr_t>(&mine);
  const std::uint64_t* met = cuda_shim::exchange_in_warp(all, here, {__FILE__, __LINE__});
  std::array<const Words*, cuda_shim::warp_size> lanes;
  for (int lane = 0; lane < cuda_shim::warp_size; ++lane)
    lanes[lane] = reinterpret_cast<const Words*>(static_cast<std::uintptr_t>(met[lane]));
  const int row = cuda_shim::lane() / 4, col = cuda_shim::lane() % 4 * 2;
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j)
      for (int k = 0; k < 4; ++k) {
        float sum = 0;
        for (int word = 0; word < 8; ++word)
          sum += word_product<precision>(lanes[row * 4 + word % 4]->a[i][k / 2 + word / 4 * 2],
                                         lanes[(col + k % 2) * 4 + word % 4]->b[j][word / 4]);
        sums[i][j][k] += sum;
      }
  cuda_shim::exchange_in_warp(all, 0, {__FILE__, __LINE__});
}

}  // namespace fastrebasin::cuda
