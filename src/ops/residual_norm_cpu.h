// residual_norm and its backward on the CPU in float32: ops/residual_norm.cpp calls them.
#pragma once

#include "ops/residual_norm.h"

namespace fastwan::ops {

bool cpu_residual_norm_takes(const ResidualNormInputs& in);

// sum: where x + gate * y goes, [B, S, C] dense, may be y; undefined where there is no y.
ResidualNormResults cpu_residual_norm(const ResidualNormInputs& in, const at::Tensor& sum);

struct ResidualNormGradients {
  at::Tensor x;        // [B, S, C], undefined where there is no norm: that of the sum
  at::Tensor y;        // [B, S, C], undefined where there is no gate: that of x
  at::Tensor vectors;  // [B, 3, C] of gate, scale and shift
};

// of_sum and of_normed: the gradients of the results, one of them may be undefined.
ResidualNormGradients cpu_residual_norm_backward(const ResidualNormInputs& in,
                                                 const at::Tensor& of_sum,
                                                 const at::Tensor& of_normed);

}  // namespace fastwan::ops
