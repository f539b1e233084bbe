// A gated residual sum and the layer norm of it: what stands between the parts of a transformer
// block (kernels/residual_norm/residual_norm.h). Where a gate, a scale and a shift belong to a
// whole sample, one pass over memory: on the CPU in float32; on CUDA, where libfastwan_ops_cuda.so
// has been opened, in float32 and bfloat16. Elsewhere torch's own operators. All with a gradient. A
// function for models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// Vectors are [B, 1, C] or [1, 1, C], one a sample, [C], one for all, or [B, S, C], one a token, in
// the type of sums (float32; float64 for float64).
struct ResidualNormInputs {
  at::Tensor x;             // [B, S, C]
  at::Tensor y;             // [B, S, C], used up; undefined: nothing is added
  at::Tensor gate;          // undefined: y counts as it is
  at::Tensor scale, shift;  // undefined: no norm is wanted
  double eps = 0;
  bool adds_one = true;       // the norm is scaled by 1 + scale
  bool rounds_norm = false;   // to the type of x before it is scaled
  bool reads_rounded = true;  // the norm sees the sum in the type of x
};

struct ResidualNormResults {
  at::Tensor sum;     // [B, S, C] x + gate * y; x where there is no y
  at::Tensor normed;  // [B, S, C] LN(sum) * (1 + scale) + shift; undefined where none is wanted
};

ResidualNormResults residual_norm(const ResidualNormInputs& in);

}  // namespace fastwan::ops
