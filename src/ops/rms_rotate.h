// RMS norm over the full width, then the rotation of interleaved pairs in each head, in one pass
// over memory (kernels/rms_rotate/rms_rotate.h): on the CPU in float32; on CUDA, where
// libfastwan_ops_cuda.so has been opened, in float32 and bfloat16. Both with a gradient. A function
// for models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

struct RmsRotateInputs {
  at::Tensor x;         // [B, S, H*d], used up on the CPU where gradients are off
  at::Tensor weight;    // [H*d]
  at::Tensor rotation;  // [S, 1, d/2] complex, or undefined: no rotation
  double eps = 0;
  bool rounds_norm = false;  // before the weight
};
// Whether rms_rotate takes them.
bool has_rms_rotate(const RmsRotateInputs& in);
at::Tensor rms_rotate(const RmsRotateInputs& in);  // [B, S, H*d]

}  // namespace fastwan::ops
