#pragma once

// What the tensor cores of sm_90a do for the 128 threads of a warpgroup, and nothing else does.
//
// "Parallel Thread Execution ISA", sections on wgmma.mma_async and on the layout of matrices in
// shared memory. As tensor_cores.cuh says for a warp, with 64 rows, sixteen for each of four warps,
// which hold `a` in registers; of `b`, a row of eight words for each column lies in shared memory,
// in rows of 128 bytes, whose quads are turned by the row's number among eight.

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/tile_layout.cuh"

namespace fastrebasin::cuda {

constexpr int eights = 4;            // of words in a row of 128 bytes
constexpr int columns_at_once = 16;  // times eight columns in one product
constexpr int row_quads = 8;

__device__ inline void publish_shared_memory() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// How a matrix of b lies: at an address, with groups of eight rows 1024 bytes apart, turned as
// above.
__device__ inline std::uint64_t description_of(const uint4* rows, int eight) {
  const std::uint64_t address = __cvta_generic_to_shared(rows) + eight * 32;
  return (address & 0x3FFFF) >> 4 | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}

#define FASTREBASIN_FOUR(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define FASTREBASIN_PRODUCT(shape, turns)                                                      \
  asm volatile(                                                                                \
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %69, 0;\nwgmma.mma_async.sync.aligned." shape    \
      " "                                                                                      \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "       \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "       \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "      \
      "{%64, %65, %66, %67}, %68, adds, 1, 1" turns ";\n}"                                     \
      : FASTREBASIN_FOUR(0), FASTREBASIN_FOUR(1), FASTREBASIN_FOUR(2), FASTREBASIN_FOUR(3),    \
        FASTREBASIN_FOUR(4), FASTREBASIN_FOUR(5), FASTREBASIN_FOUR(6), FASTREBASIN_FOUR(7),    \
        FASTREBASIN_FOUR(8), FASTREBASIN_FOUR(9), FASTREBASIN_FOUR(10), FASTREBASIN_FOUR(11),  \
        FASTREBASIN_FOUR(12), FASTREBASIN_FOUR(13), FASTREBASIN_FOUR(14), FASTREBASIN_FOUR(15) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)))

// Adds a product to the sums, or begins them with it.
template <Precision precision>
__device__ void start_product(const unsigned (&a)[4], std::uint64_t b, bool adds,
                              float (*sums)[4]) {
  if constexpr (precision == Precision::medium)
    FASTREBASIN_PRODUCT("m64n128k16.f32.bf16.bf16", ", 0");
  else
    FASTREBASIN_PRODUCT("m64n128k8.f32.tf32.tf32", "");
}

#undef FASTREBASIN_PRODUCT
#undef FASTREBASIN_FOUR

// What stays in registers until products are finished.
template <Precision precision, int columns>
struct PendingProducts {
  unsigned a[eights][4];
};
template <int columns>
struct PendingProducts<Precision::highest, columns> {
  unsigned a[eights][4], rest[eights][4];
  float sums[columns][4];
};

// Tells that registers are at rest, and that others are read from now on.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits for all products. What comes behind can't be moved before it for the sake of their results.
template <int columns>
__device__ void wait_for_products(float (&sums)[columns][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int j = 0; j < columns; ++j)
#pragma unroll
    for (int k = 0; k < 4; ++k) asm volatile("" : "+f"(sums[j][k])::"memory");
}

template <Precision precision, int columns>
__device__ void start_products(const uint4* y, const uint4*, bool begins,
                               float (&products)[columns][4],
                               PendingProducts<precision, columns>& pending) {
  begin_products();
#pragma unroll
  for (int eight = 0; eight < eights; ++eight)
#pragma unroll
    for (int j = 0; j < columns; j += columns_at_once)
      start_product<precision>(pending.a[eight], description_of(y + j * 8 * row_quads, eight),
                               eight > 0 || !begins, &products[j]);
  end_products();
}

template <Precision precision, int columns>
__device__ void finish_products(const uint4*, const uint4*, float (&products)[columns][4],
                                PendingProducts<precision, columns>&) {
  wait_for_products(products);
}

// Of the halves of values: the small products first.
template <int columns>
__device__ void start_products(const uint4* leading, const uint4* rest, bool begins,
                               float (&products)[columns][4],
                               PendingProducts<Precision::highest, columns>& pending) {
  static_assert(columns == columns_at_once, "registers hold no more sums");
  if (begins) clear(products);
#pragma unroll
  for (int eight = 0; eight < eights; ++eight)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const Halves halves = halves_of(pending.a[eight][k]);
      pending.a[eight][k] = halves.leading;
      pending.rest[eight][k] = halves.rest;
    }
  begin_products();
#pragma unroll
  for (int eight = 0; eight < eights; ++eight)
    start_product<Precision::highest>(pending.rest[eight], description_of(leading, eight),
                                      eight > 0, pending.sums);
#pragma unroll
  for (int eight = 0; eight < eights; ++eight)
    start_product<Precision::highest>(pending.a[eight], description_of(rest, eight), true,
                                      pending.sums);
#pragma unroll
  for (int eight = 0; eight < eights; ++eight)
    start_product<Precision::highest>(pending.a[eight], description_of(leading, eight), true,
                                      pending.sums);
  end_products();
}

template <int columns>
__device__ void finish_products(const uint4*, const uint4*, float (&products)[columns][4],
                                PendingProducts<Precision::highest, columns>& pending) {
  wait_for_products(pending.sums);
#pragma unroll
  for (int j = 0; j < columns; ++j)
#pragma unroll
    for (int k = 0; k < 4; ++k) products[j][k] += pending.sums[j][k];
}

}  // namespace fastrebasin::cuda
