#include "models/wan_vae/encoder.h"

#include "base/text.h"

namespace fastwan::models::wan_vae {

Encoder::Level Encoder::make_level(const layout::WanVaeConfig& c,
                                   const Scope& scope,
                                   std::size_t index) const {
  const bool is_last = index + 1 == c.dim_mult.size();
  const bool temporal = !is_last && c.temporal_downsample[index];
  Level level{.factor = {.t = temporal ? 2 : 1, .s = is_last ? 1 : 2},
              .width = c.base_dim * c.dim_mult[index]};
  // VAE 2.1 numbers all layers in one list, VAE 2.2 by level.
  int64_t flat = static_cast<int64_t>(index) * (c.num_res_blocks + 1);
  int64_t width = index == 0 ? c.base_dim : c.base_dim * c.dim_mult[index - 1];
  for (int64_t j = 0; j < c.num_res_blocks; ++j) {
    const std::string name =
        c.is_residual ? str("down_blocks.", index, ".resnets.", j) : str("down_blocks.", flat++);
    level.resnets.push_back(ResidualBlock::make(scope.in(name), width, level.width));
    width = level.width;
  }
  if (!is_last) {
    const std::string name =
        c.is_residual ? str("down_blocks.", index, ".downsampler") : str("down_blocks.", flat);
    level.downsample = Downsample::make(scope.in(name), width, temporal);
  }
  return level;
}

Encoder::Encoder(const layout::WanVaeConfig& c, const Scope& scope)
    : is_residual_(c.is_residual),
      conv_in_(CausalConv::make(scope.in("conv_in"), c.in_channels, c.base_dim)) {
  for (std::size_t i = 0; i < c.dim_mult.size(); ++i) {
    levels_.push_back(make_level(c, scope, i));
  }
  const int64_t width = levels_.back().width;
  mid_ = MidBlock::make(scope.in("mid_block"), width);
  norm_out_ = RmsNorm::make(scope.in("norm_out"), width, 4);
  conv_out_ = CausalConv::make(scope.in("conv_out"), width, 2 * c.z_dim);
}

at::Tensor Encoder::forward(const at::Tensor& chunk, FeatureCache& cache) const {
  at::Tensor x = convolve(conv_in_, chunk, cache.slot());
  for (const Level& level : levels_) {
    const at::Tensor entry = is_residual_ ? x : at::Tensor();
    for (const ResidualBlock& resnet : level.resnets) {
      x = resnet(x, cache);
    }
    if (level.downsample) {
      x = (*level.downsample)(x, cache);
    }
    if (is_residual_) {
      x.add_(avg_down(entry, level.width, level.factor));
    }
  }
  x = mid_(x, cache);
  return convolve_normed(norm_out_, conv_out_, x, cache.slot());  // [B, T, h, w, 2 z]
}

}  // namespace fastwan::models::wan_vae
