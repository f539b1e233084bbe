// Pixels, patched, to the moments of the latents: one chunk of frames at a time.
#pragma once

#include <vector>

#include "models/layout/configs.h"
#include "models/wan_vae/blocks.h"
#include "models/wan_vae/pixels.h"

namespace fastwan::models::wan_vae {

class Encoder {
 public:
  Encoder(const layout::WanVaeConfig& config, const Scope& scope);
  // [B, F, H, W, in_channels] -> [B, T, h, w, 2 z]: F = 1 + (T - 1) * scale_factor_temporal in the
  // first chunk, T * scale_factor_temporal in later ones
  at::Tensor forward(const at::Tensor& chunk, FeatureCache& cache) const;

 private:
  struct Level {
    std::vector<ResidualBlock> resnets;
    std::optional<Downsample> downsample;
    Factor factor;
    int64_t width;
  };
  Level make_level(const layout::WanVaeConfig& config, const Scope& scope, std::size_t index) const;

  bool is_residual_;  // VAE 2.2: a shortcut around each level
  CausalConv conv_in_, conv_out_;
  std::vector<Level> levels_;
  MidBlock mid_;
  RmsNorm norm_out_;
};

}  // namespace fastwan::models::wan_vae
