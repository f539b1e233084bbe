// 3x3 convolution of frames with up to all their taps in time, on the CPU in float32, where
// gradients are off: fewer products than a direct convolution makes
// (kernels/frame_conv/frame_conv.h). A function for models, not an operator of the library.
//
// Dims    B batch, T frames, p frames of history, D taps in time, H W of an input frame, U
// upsample,
//         C in, N out
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

struct FrameConvInputs {
  at::Tensor history;    // [B, p, H, W, C], p < D, or undefined; frames before count as zeros
  at::Tensor x;          // [B, T, H, W, C]
  at::Tensor weight;     // [N, C, D, 3, 3]
  at::Tensor bias;       // [N]
  at::Tensor residual;   // [B, T, U*H, U*W, N], or undefined
  int64_t upsample = 1;  // 2: each pixel counts as 2x2
};

// Whether frame_conv takes these: float32 on the CPU, gradients off.
bool has_frame_conv(const at::Tensor& x, const at::Tensor& weight);
// out[b, t] = residual + bias + the convolution of frames t - D + 1 ... t: [B, T, U*H, U*W, N]
at::Tensor frame_conv(const FrameConvInputs& in);

}  // namespace fastwan::ops
