// 16-byte vectors: SSE2 on x86-64, NEON on aarch64; every such processor has them.
#define FASTREBASIN_ISA baseline
#define FASTREBASIN_ISA_NAME "baseline"
#define FASTREBASIN_VECTOR_BYTES 16
#include "cpu/kernels/row_kernels.inl"
