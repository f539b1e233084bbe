#include "models/wan_vae/decoder.h"

#include <algorithm>

#include <ATen/ops/cat.h>

#include "base/text.h"

namespace fastwan::models::wan_vae {
namespace {

// Frames that pass the wide levels together on the CPU: their activations are most of the memory.
constexpr int64_t kFramesAtOnce = 2;

}  // namespace

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
    levels_in_time_ = temporal ? i + 1 : levels_in_time_;
    levels_.push_back(std::move(level));
  }
  norm_out_ = RmsNorm::make(scope.in("norm_out"), width, 4);
  conv_out_ = CausalConv::make(scope.in("conv_out"), width, c.out_channels);
}

at::Tensor Decoder::run_levels(std::size_t begin,
                               std::size_t end,
                               at::Tensor x,
                               FeatureCache& cache) const {
  for (std::size_t i = begin; i < end; ++i) {
    const Level& level = levels_[i];
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
  return x;
}

at::Tensor Decoder::forward(const at::Tensor& latents, FeatureCache& cache) const {
  const at::Tensor x =
      run_levels(0, levels_in_time_, mid_(convolve(conv_in_, latents, cache.slot()), cache),
                 cache);  // [B, F, h, w, c]
  const int64_t F = x.size(1), at_once = x.is_cpu() ? kFramesAtOnce : F;
  const std::size_t place = cache.place();
  std::vector<at::Tensor> frames;
  for (int64_t f = 0; f < F; f += at_once) {
    cache.go_back_to(place);
    const at::Tensor wide = run_levels(levels_in_time_, levels_.size(),
                                       x.narrow(1, f, std::min(at_once, F - f)), cache);
    frames.push_back(convolve_normed(norm_out_, conv_out_, wide, cache.slot()));
  }
  return frames.size() == 1 ? frames[0] : at::cat(frames, 1);  // [B, F, H, W, out_channels]
}

}  // namespace fastwan::models::wan_vae
