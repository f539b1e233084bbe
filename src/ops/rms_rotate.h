// RMS norm over the full width, then the rotation of interleaved pairs in each head, in place, on
// the CPU in float32 where gradients are off: one pass over memory
// (kernels/rms_rotate/rms_rotate.h). A function for models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// Whether rms_rotate_ takes x.
bool has_rms_rotate(const at::Tensor& x);
// x [B, S, H*d] dense, weight [H*d], rotation [S, 1, d/2] complex, or undefined: no rotation.
void rms_rotate_(at::Tensor& x, const at::Tensor& weight, const at::Tensor& rotation, double eps);

}  // namespace fastwan::ops
