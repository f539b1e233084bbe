// ordered_matmul: a product of matrices whose bits no split over threads can change (the coarse
// branch of video sparse attention, whose scores decide which tiles are read).
//
//   out[g, m, n] = sum_{i < K} a[g, m, i] * b[g, i, n]
//
// Dims     G matrices, M rows, N columns, K depth
// Layout   any strides of a and b; out dense
// Types    float32; each element is one chain of fused multiply-adds in ascending order of i
// Empty    K = 0 gives zeros
// Cost     2 G M N K operations; b is packed once, a read once for each panel of b
#pragma once

#include <cstdint>

#include "kernels/common/range.h"

namespace fastwan::kernels {

struct MatmulDims {
  int64_t G, M, N, K;
};

struct Matrices {
  const float* data;
  int64_t matrix, row, column;  // strides in elements
};

struct OrderedMatmulArgs {
  Matrices a, b;
  float* out;
  MatmulDims dims;
};

namespace ref {  // sums in double
void ordered_matmul(const OrderedMatmulArgs& args, double* out);
}
namespace cpu {  // the caller splits the G * ordered_matmul_panels pieces over threads
int64_t ordered_matmul_panels(const MatmulDims& dims);
// Floats of scratch that a call needs, aligned to 64 bytes.
int64_t ordered_matmul_scratch(const MatmulDims& dims);
void ordered_matmul(const OrderedMatmulArgs& args, float* scratch, Range pieces);
}  // namespace cpu

}  // namespace fastwan::kernels
