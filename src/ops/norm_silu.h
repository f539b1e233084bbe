// silu(x / max(|x|, 1e-12) * sqrt(C) * gamma), |x| over the channels, in one pass over memory
// (kernels/norm_silu/norm_silu.h): on the CPU in float32 where no gradient is asked for; on CUDA,
// where libfastwan_ops_cuda.so has been opened, in float32 and bfloat16, with a gradient in grad
// mode. A function for models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

bool has_norm_silu(const at::Tensor& x, const at::Tensor& gamma);
at::Tensor norm_silu(const at::Tensor& x, const at::Tensor& gamma);  // [..., C], [C] -> [..., C]
void norm_silu_(at::Tensor& x, const at::Tensor& gamma);             // in place, on the CPU

}  // namespace fastwan::ops
