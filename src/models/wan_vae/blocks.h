// Blocks of layers that encoder and decoder share; those with convolutions over time take their
// slots of the feature cache in the order of the calls.
#pragma once

#include <optional>

#include "models/wan_vae/feature_cache.h"
#include "models/wan_vae/layers.h"

namespace fastwan::models::wan_vae {

// The convolution of a chunk, after its history: reads and renews the slot. Nobody may change x
// afterwards.
at::Tensor convolve(const CausalConv& conv, const at::Tensor& x, at::Tensor& slot);
// The same of silu(norm(x)).
at::Tensor convolve_normed(const RmsNorm& norm,
                           const CausalConv& conv,
                           const at::Tensor& x,
                           at::Tensor& slot);

// shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))
struct ResidualBlock {
  RmsNorm norm1, norm2;
  CausalConv conv1, conv2;
  std::optional<PointwiseConv> shortcut;  // where the width changes

  static ResidualBlock make(const Scope& scope, int64_t in, int64_t out);
  at::Tensor operator()(const at::Tensor& x, FeatureCache& cache) const;
};

// x + proj(attention(to_qkv(norm(x)))): one head over the pixels of each frame.
struct FrameAttention {
  RmsNorm norm;
  PointwiseConv to_qkv, proj;

  static FrameAttention make(const Scope& scope, int64_t width);
  at::Tensor operator()(const at::Tensor& x) const;
};

struct MidBlock {
  ResidualBlock before, after;
  FrameAttention attention;

  static MidBlock make(const Scope& scope, int64_t width);
  at::Tensor operator()(const at::Tensor& x, FeatureCache& cache) const;
};

// Twice the height and width; with time_conv also two frames for each but the video's first.
struct Upsample {
  std::optional<CausalConv> time_conv;
  FrameConv resample;

  struct Widths {
    int64_t in, out;
  };
  static Upsample make(const Scope& scope, const Widths& widths, bool temporal);
  at::Tensor operator()(const at::Tensor& x, FeatureCache& cache) const;
};

// Half the height and width; with time_conv also one frame for two, apart from the video's first.
struct Downsample {
  FrameConv resample;
  std::optional<CausalConv> time_conv;

  static Downsample make(const Scope& scope, int64_t width, bool temporal);
  at::Tensor operator()(const at::Tensor& x, FeatureCache& cache) const;
};

}  // namespace fastwan::models::wan_vae
