// silu(x / max(|x|, 1e-12) * sqrt(C) * gamma), |x| over the channels, on the CPU in float32 where
// no gradient is asked for: one pass over memory (kernels/norm_silu/norm_silu.h). A function for
// models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

bool has_norm_silu(const at::Tensor& x, const at::Tensor& gamma);
at::Tensor norm_silu(const at::Tensor& x, const at::Tensor& gamma);  // [..., C], [C] -> [..., C]
void norm_silu_(at::Tensor& x, const at::Tensor& gamma);             // in place

}  // namespace fastwan::ops
