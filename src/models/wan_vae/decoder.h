// Latents to pixels, patched: some latent frames at a time.
#pragma once

#include <vector>

#include "models/layout/configs.h"
#include "models/wan_vae/blocks.h"
#include "models/wan_vae/pixels.h"

namespace fastwan::models::wan_vae {

class Decoder {
 public:
  Decoder(const layout::WanVaeConfig& config, const Scope& scope);
  // [B, T, h, w, z] -> [B, F, H, W, out_channels]: one frame of a video's first latent frame,
  // scale_factor_temporal of each later one; not clamped
  at::Tensor forward(const at::Tensor& latents, FeatureCache& cache) const;

 private:
  struct Level {
    std::vector<ResidualBlock> resnets;
    std::optional<Upsample> upsample;
    Factor factor;
    int64_t width;
  };
  // Levels [begin, end) of the chunk x.
  at::Tensor run_levels(std::size_t begin,
                        std::size_t end,
                        at::Tensor x,
                        FeatureCache& cache) const;

  bool is_residual_;  // VAE 2.2: a shortcut around each level but the last
  CausalConv conv_in_, conv_out_;
  MidBlock mid_;
  std::vector<Level> levels_;
  std::size_t levels_in_time_ = 0;  // those up to the last that makes two frames of one
  RmsNorm norm_out_;
};

}  // namespace fastwan::models::wan_vae
