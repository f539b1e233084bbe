// rms_rotate: RMS norm over a whole row, a scale, then a rotation of interleaved pairs in each
// head.
//
//   y[i, c] = x[i, c] * weight[c] / sqrt(mean_c(x[i, c]^2) + eps)
//   out[i, h, 2j] + i out[i, h, 2j + 1] = (y[i, h, 2j] + i y[i, h, 2j + 1]) * rotation[i mod S, j]
//
// Dims     R rows, C = H * d channels of a row, d even, S rows of the rotation
// Layout   x and out [R, C] dense, weight [C], rotation [S, d/2] of (cos, sin) or null: no rotation
// Types    float32, sums in float32; the reference also double
// Aliases  out may be x
// Cost     reads and writes R*C elements: memory bound
#pragma once

#include <cstdint>

#include "kernels/common/range.h"

namespace fastwan::kernels {

template <class Element>
struct RmsRotateArgs {
  const Element* x;
  const Element* weight;
  const Element* rotation;
  Element* out;
  int64_t C, d, S;
  double eps;
};

namespace ref {
template <class Element>
void rms_rotate(const RmsRotateArgs<Element>& args, Range rows);
}
namespace cpu {
void rms_rotate(const RmsRotateArgs<float>& args, Range rows);
}

}  // namespace fastwan::kernels
