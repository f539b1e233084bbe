#include "models/wan_vae/decoder.h"

#include "base/text.h"

namespace fastwan::models::wan_vae {

Decoder::Decoder(const layout::WanVaeConfig& c, const Scope& scope) : is_residual_(c.is_residual) {
  const std::size_t num_levels = c.dim_mult.size();
  int64_t width = c.decoder_base_dim * c.dim_mult.back();
  conv_in_ = CausalConv::make(scope.in("conv_in"), c.z_dim, width);
  mid_ = MidBlock::make(scope.in("mid_block"), width);
  for (std::size_t i = 0; i < num_levels; ++i) {
    const bool is_last = i + 1 == num_levels;
    const bool temporal = !is_last && c.temporal_downsample[num_levels - 2 - i];
    Level level{.factor = {.t = temporal ? 2 : 1, .s = is_last ? 1 : 2},
                .width = c.decoder_base_dim * c.dim_mult[num_levels - 1 - i]};
    const Scope block = scope.in(str("up_blocks.", i));
    for (int64_t j = 0; j <= c.num_res_blocks; ++j) {
      level.resnets.push_back(
          ResidualBlock::make(block.in(str("resnets.", j)), width, level.width));
      width = level.width;
    }
    if (!is_last) {
      width = c.is_residual ? level.width : level.width / 2;
      level.upsample = Upsample::make(block.in(c.is_residual ? "upsampler" : "upsamplers.0"),
                                      {.in = level.width, .out = width}, temporal);
    }
    levels_.push_back(std::move(level));
  }
  norm_out_ = RmsNorm::make(scope.in("norm_out"), width, 4);
  conv_out_ = CausalConv::make(scope.in("conv_out"), width, c.out_channels);
}

at::Tensor Decoder::forward(const at::Tensor& latent_frame, FeatureCache& cache) const {
  at::Tensor x = mid_(convolve(conv_in_, latent_frame, cache.slot()), cache);
  for (const Level& level : levels_) {
    const bool has_shortcut = is_residual_ && level.upsample;
    const at::Tensor entry = has_shortcut ? x : at::Tensor();
    for (const ResidualBlock& resnet : level.resnets) {
      x = resnet(x, cache);
    }
    if (level.upsample) {
      x = (*level.upsample)(x, cache);
    }
    if (has_shortcut) {  // of a first chunk, the last copy
      const at::Tensor copies = dup_up(entry, level.width, level.factor);
      x.add_(copies.narrow(1, copies.size(1) - x.size(1), x.size(1)));
    }
  }
  return convolve_normed(norm_out_, conv_out_, x, cache.slot());  // [B, F, H, W, out_channels]
}

}  // namespace fastwan::models::wan_vae
