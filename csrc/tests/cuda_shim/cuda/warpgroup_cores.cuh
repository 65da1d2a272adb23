#pragma once

// Stands in for what the tensor cores do for warpgroups. Products are made as late as they may be:
// when they must be finished, of what shared memory then holds.

#include <cuda_runtime.h>

#include "cuda/tile_layout.cuh"

namespace fastrebasin::cuda {

constexpr int eights = 4;
constexpr int row_quads = 8;

inline void publish_shared_memory() {}

template <Precision, int>
struct PendingProducts {
  unsigned a[eights][4];
  bool begins;
};

template <Precision precision, int columns>
void start_products(const uint4*, const uint4*, bool begins, float (&)[columns][4],
                    PendingProducts<precision, columns>& pending) {
  pending.begins = begins;
}

// A word of a unit's row, whose quads are turned.
inline unsigned word_at(const uint4* quads, int unit, int word) {
  const uint4& quad = quads[unit * row_quads + (word / 4 ^ unit % row_quads)];
  return reinterpret_cast<const unsigned*>(&quad)[word % 4];
}

template <Precision precision, int columns>
void finish_products(const uint4* y, const uint4* rest, float (&products)[columns][4],
                     PendingProducts<precision, columns>& pending) {
  constexpr unsigned all = 0xFFFFFFFF;
  const auto here = reinterpret_cast<std::uintptr_t>(&pending);
  const std::uint64_t* met = cuda_shim::exchange_in_warp(all, here, {__FILE__, __LINE__});
  std::array<const PendingProducts<precision, columns>*, cuda_shim::warp_size> lanes;
  for (int lane = 0; lane < cuda_shim::warp_size; ++lane)
    lanes[lane] = reinterpret_cast<const PendingProducts<precision, columns>*>(
        static_cast<std::uintptr_t>(met[lane]));
  const int row = cuda_shim::lane() / 4, column = cuda_shim::lane() % 4 * 2;
  if (pending.begins) clear(products);
  for (int j = 0; j < columns; ++j)
    for (int k = 0; k < 4; ++k) {
      float sum = 0;
      for (int word = 0; word < 8 * eights; ++word) {
        const unsigned a = lanes[row * 4 + word % 4]->a[word / 8][k / 2 + word % 8 / 4 * 2];
        const int unit = 8 * j + column + k % 2;
        const unsigned b = word_at(y, unit, word);
        if (precision == Precision::highest) {
          const Halves of_a = halves_of(a);
          const Halves of_b{b, word_at(rest, unit, word)};
          sum += half_products(of_a, of_b);
        } else {
          sum += word_product<precision>(a, b);
        }
      }
      products[j][k] += sum;
    }
  cuda_shim::exchange_in_warp(all, 0, {__FILE__, __LINE__});
}

}  // namespace fastrebasin::cuda
