// 32-byte vectors; compiled with AVX2 and FMA.
#define FASTREBASIN_ISA avx2
#define FASTREBASIN_ISA_NAME "avx2"
#define FASTREBASIN_VECTOR_BYTES 32
#include "cpu/kernels/row_kernels.inl"
