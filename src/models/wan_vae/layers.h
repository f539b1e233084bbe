// The layers of the Wan VAE. Activations have channels innermost, so that norms, 1x1 convolutions
// and attention read memory in order and convolutions need no reordering.
//
// Dims    B batch, T H W frames, height and width of this level, C channels
// Layout  activations [B, T, H, W, C] dense; weights as the checkpoint has them
// Grad    in grad mode what a layer makes has a gradient; without, it writes in place what it can
#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "models/parameters.h"

namespace fastwan::models::wan_vae {

// Where the parameters of a layer go: a dotted name under the root module.
struct Scope {
  torch::nn::Module& root;
  std::string name;
  at::TensorOptions options;

  Scope in(const std::string& word) const;
  at::Tensor parameter(const std::string& word, at::IntArrayRef shape) const;
};

// A convolution with a kernel of one: a linear map of the channels.
struct PointwiseConv {
  at::Tensor weight;  // [out, in, 1, 1] or [out, in, 1, 1, 1]
  at::Tensor bias;    // [out]

  // `rank`: dimensions of the stored weight, 4 or 5.
  static PointwiseConv make(const Scope& scope, int64_t in, int64_t out, int64_t rank);
  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., out]
};

struct Kernel {
  int64_t t = 3, h = 3, w = 3;
};

// Convolution over time whose output frame sees no later input frame.
struct CausalConv {
  at::Tensor weight;  // [out, in, t, h, w]
  at::Tensor bias;    // [out]

  static CausalConv make(const Scope& scope, int64_t in, int64_t out, const Kernel& kernel = {});
  // frames [B, p + T, H, W, in]: p frames of history, then those of the chunk. Where p is less than
  // kernel.t - 1, the frames before count as zero. -> [B, T, H, W, out]
  at::Tensor operator()(const at::Tensor& frames, int64_t T) const;
  // The same without joined frames: x [B, T, H, W, in] after as much history as there is (or
  // undefined), plus residual [B, T, H, W, out] (or undefined). For those that is_fast takes.
  at::Tensor after(const at::Tensor& history,
                   const at::Tensor& x,
                   const at::Tensor& residual) const;
  // 3x3 in space, on the CPU in float32, no gradient wanted, pixels enough to pay for the
  // transformed weights.
  bool is_fast(const at::Tensor& x) const;
  // Every second frame, no padding: [B, 2 T + 1, H, W, in] -> [B, T, H, W, out].
  at::Tensor strided(const at::Tensor& frames) const;
};

// 3x3 on each frame.
struct FrameConv {
  at::Tensor weight;  // [out, in, 3, 3]
  at::Tensor bias;    // [out]

  static FrameConv make(const Scope& scope, int64_t in, int64_t out);
  at::Tensor operator()(const at::Tensor& x) const;  // [B, T, H, W, in] -> [B, T, H, W, out]
  // Of frames twice as high and wide, each pixel repeated: -> [B, T, 2 H, 2 W, out].
  at::Tensor upsampled(const at::Tensor& x) const;
  // Stride 2, one row and one column of zeros at the bottom and the right.
  at::Tensor strided(const at::Tensor& x) const;  // -> [B, T, H/2, W/2, out]
};

// x / max(|x|, 1e-12) * sqrt(C) * gamma, |x| over the channels.
struct RmsNorm {
  at::Tensor gamma;  // [C, 1, ...]

  // `rank`: dimensions of the stored gamma, 3 or 4.
  static RmsNorm make(const Scope& scope, int64_t channels, int64_t rank);
  at::Tensor operator()(const at::Tensor& x) const;      // [..., C], with a gradient in grad mode
  void into(at::Tensor out, const at::Tensor& x) const;  // both [..., C], without one
  at::Tensor then_silu(const at::Tensor& x) const;       // silu of the norm, with a gradient too
  void then_silu_into(at::Tensor out, const at::Tensor& x) const;  // without one
  void then_silu_(at::Tensor& x) const;  // in the memory of x, without a gradient
};

}  // namespace fastwan::models::wan_vae
