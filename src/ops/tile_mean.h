// fastwan::tile_mean: the mean of each tile's tokens; differentiable. Contract:
// kernels/tile_mean/tile_mean.h.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// x [B, N*T, H, D], len [N] int32 -> [B, N, H, D], in x's type.
at::Tensor tile_mean(const at::Tensor& x, const at::Tensor& len, int64_t T);

// For implementations of a device: shapes, types and devices (reads no values), and the version
// made of torch's own operators.
void check_tile_mean(const at::Tensor& x, const at::Tensor& len, int64_t T);
at::Tensor plain_tile_mean(const at::Tensor& x, const at::Tensor& len, int64_t T);

}  // namespace fastwan::ops
