// 64-byte vectors; compiled with AVX-512 F, BW, DQ and VL.
#define FASTREBASIN_ISA avx512
#define FASTREBASIN_ISA_NAME "avx512"
#define FASTREBASIN_VECTOR_BYTES 64
#include "cpu/kernels/row_kernels.inl"
