// RMS norm over the full width, then the rotation of interleaved pairs in each head, in one pass
// over memory (kernels/rms_rotate/rms_rotate.h): in place on the CPU in float32 where gradients are
// off; on CUDA, where libfastwan_ops_cuda.so has been opened, in float32 and bfloat16, with a
// gradient in grad mode. A function for models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// x [B, S, H*d], weight [H*d], rotation [S, 1, d/2] complex, or undefined: no rotation.

// Whether rms_rotate_ takes x, which must be dense.
bool has_rms_rotate(const at::Tensor& x);
void rms_rotate_(at::Tensor& x, const at::Tensor& weight, const at::Tensor& rotation, double eps);

struct RmsRotateInputs {
  at::Tensor x, weight, rotation;
  double eps = 0;
  bool rounds_norm = false;  // before the weight
};
// Whether rms_rotate takes them.
bool has_gpu_rms_rotate(const RmsRotateInputs& in);
at::Tensor rms_rotate(const RmsRotateInputs& in);  // [B, S, H*d]

}  // namespace fastwan::ops
