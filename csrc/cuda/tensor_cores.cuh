#pragma once

// What the tensor cores of sm_80 and later do for the 32 threads of a warp, and nothing else does.
//
// "Parallel Thread Execution ISA", sections on mma.sync.m16n8k8 (TF32) and m16n8k16 (bfloat16).
// Both multiply 16 rows by 8 columns of eight words: a word is a value in TF32, or a pair in
// bfloat16. With g = lane / 4 and t = lane % 4, a lane holds of each
//   a  (16, 8): (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)
//   b  (8, 8):  (t, g), (t + 4, g)
//   sums (16, 8): (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
//
// float32 by three products in TF32: Ootomo and Yokota, "Recovering single precision accuracy from
// tensor cores while surpassing the FP32 theoretical peak performance" (2022). Tensor cores cut off
// what exceeds their sums, so that errors of one sign pile up; sums leave them after every product,
// and are added elsewhere, rounded. We split by integers, and don't scale: the rest is cut off to
// 11 of its 12 bits, with either sign.

#include <cuda_runtime.h>

#include "cuda/correlation.hpp"
#include "cuda/elements.cuh"

namespace fastrebasin::cuda {

// The nearest TF32.
__device__ inline unsigned rounded_word(float value) {
  unsigned word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(value));
  return word;
}

// The nearest two bfloat16.
__device__ inline unsigned rounded_word(float first, float second) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}

__device__ inline void add_tf32_product(const unsigned (&a)[4], const unsigned (&b)[2],
                                        float (&sums)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void add_bfloat16_product(const unsigned (&a)[4], const unsigned (&b)[2],
                                            float (&sums)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <int registers>
struct Split {
  unsigned leading[registers], rest[registers];
};

template <int registers>
__device__ Split<registers> split(const unsigned (&words)[registers]) {
  Split<registers> found;
#pragma unroll
  for (int k = 0; k < registers; ++k) {
    const Halves halves = halves_of(words[k]);
    found.leading[k] = halves.leading;
    found.rest[k] = halves.rest;
  }
  return found;
}

// Each product waits for the one before it with the same rows: others come between.
template <int rows, int cols>
__device__ void add_split_products(const unsigned (&a)[rows][4], const unsigned (&b)[cols][2],
                                   float (&sums)[rows][cols][4]) {
  Split<4> of_a[rows];
#pragma unroll
  for (int i = 0; i < rows; ++i) of_a[i] = split(a[i]);
#pragma unroll
  for (int j = 0; j < cols; ++j) {
    const Split<2> of_b = split(b[j]);
    float products[rows][4] = {};
#pragma unroll
    for (int i = 0; i < rows; ++i) add_tf32_product(of_a[i].rest, of_b.leading, products[i]);
#pragma unroll
    for (int i = 0; i < rows; ++i) add_tf32_product(of_a[i].leading, of_b.rest, products[i]);
#pragma unroll
    for (int i = 0; i < rows; ++i) add_tf32_product(of_a[i].leading, of_b.leading, products[i]);
#pragma unroll
    for (int i = 0; i < rows; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[i][j][k] += products[i][k];
  }
}

// Adds to a lane's sums the products of its warp's words: `rows` times 16 rows, `cols` times 8
// columns.
template <Precision precision, int rows, int cols>
__device__ void add_products(const unsigned (&a)[rows][4], const unsigned (&b)[cols][2],
                             float (&sums)[rows][cols][4]) {
  if constexpr (precision == Precision::highest) {
    add_split_products(a, b, sums);
  } else {
#pragma unroll
    for (int j = 0; j < cols; ++j)
#pragma unroll
      for (int i = 0; i < rows; ++i)
        if constexpr (precision == Precision::high)
          add_tf32_product(a[i], b[j], sums[i][j]);
        else
          add_bfloat16_product(a[i], b[j], sums[i][j]);
  }
}

}  // namespace fastrebasin::cuda
