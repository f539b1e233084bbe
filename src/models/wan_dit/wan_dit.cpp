#include "models/wan_dit.h"

#include <cmath>

#include <ATen/ops/_unique.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/silu.h>

#include "base/shape.h"
#include "base/text.h"

namespace fastwan::models {
namespace {

constexpr double kMaxPeriod = 10000.0;

}  // namespace

at::Tensor timestep_wave(const at::Tensor& timestep, int64_t freq_dim) {
  const int64_t half = freq_dim / 2;
  const at::Tensor index = at::arange(half, timestep.options());
  const at::Tensor omega =
      at::exp(index * (-std::log(kMaxPeriod)) / static_cast<double>(half));  // [half]
  const at::Tensor angle = timestep.unsqueeze(1) * omega;                    // [U, half]
  return at::cat({angle.cos(), angle.sin()}, 1);
}

WanDit::WanDit(const layout::WanDitConfig& config,
               std::shared_ptr<const ops::Attention> attention,
               const RoundingProfile& profile,
               at::Device device)
    : config_(config), attention_(std::move(attention)), profile_(profile) {
  const int64_t width = config.width();
  const auto compute = at::TensorOptions(profile.compute).device(device);
  const auto kept = at::TensorOptions(profile.kept).device(device);
  const int64_t patch = config.patch_t * config.patch_h * config.patch_w;
  patch_weight_ = add_parameter(
      *this, "patch_embedding.weight",
      {width, config.in_channels, config.patch_t, config.patch_h, config.patch_w}, compute);
  patch_bias_ = add_parameter(*this, "patch_embedding.bias", {width}, compute);
  time_1_ = Linear::make(*this, "condition_embedder.time_embedder.linear_1", config.freq_dim, width,
                         kept);
  time_2_ = Linear::make(*this, "condition_embedder.time_embedder.linear_2", width, width, kept);
  time_proj_ = Linear::make(*this, "condition_embedder.time_proj", width, 6 * width, compute);
  text_1_ = Linear::make(*this, "condition_embedder.text_embedder.linear_1", config.text_dim, width,
                         compute);
  text_2_ = Linear::make(*this, "condition_embedder.text_embedder.linear_2", width, width, compute);
  const auto list = register_module("blocks", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    blocks_.push_back(list->register_module(std::to_string(i),
                                            std::make_shared<WanBlock>(config, profile, device)));
  }
  scale_shift_table_ = add_parameter(*this, "scale_shift_table", {1, 2, width}, kept);
  proj_out_ = Linear::make(*this, "proj_out", width, config.out_channels * patch, compute);
}

ops::AttentionPlan WanDit::plan_for(at::IntArrayRef latent_sizes, at::Device device) const {
  return ops::plan_tiles(latent_sizes[2] / config_.patch_t, latent_sizes[3] / config_.patch_h,
                         latent_sizes[4] / config_.patch_w, device);
}

Rope WanDit::rope_for(const ops::AttentionPlan& plan, at::Device device) const {
  return make_rope({.head_dim = config_.head_dim, .T = plan.T, .H = plan.H, .W = plan.W},
                   profile_.wide, device);
}

at::Tensor WanDit::embed_text(const at::Tensor& encoded) const {
  return text_2_(at::gelu(text_1_(encoded.to(profile_.compute)), "tanh"));  // [B, L, D]
}

WanDit::State WanDit::head_in(const at::Tensor& latents,
                              const at::Tensor& timestep,
                              const ops::AttentionPlan& plan) const {
  const int64_t B = latents.size(0);
  const int64_t S = plan.T * plan.H * plan.W;
  Shapes shapes("WanDit");
  shapes.expect("latents", latents.sizes(),
                str("B ", config_.in_channels, " ", plan.T * config_.patch_t, " ",
                    plan.H * config_.patch_h, " ", plan.W * config_.patch_w));
  shapes.expect("timestep", timestep.sizes(), timestep.dim() == 1 ? str(B) : str(B, " ", S));
  const std::vector<int64_t> patch = {config_.patch_t, config_.patch_h, config_.patch_w};
  const at::Tensor x = at::conv3d(latents.to(profile_.compute), patch_weight_, patch_bias_,
                                  patch)  // [B, D, T, H/2, W/2]
                           .flatten(2)
                           .transpose(1, 2)
                           .contiguous();  // [B, S, D]

  // Few timesteps are distinct (two for image to video): embed each once, pick rows by token.
  auto [distinct, row] = at::_unique(timestep.to(profile_.wide), /*sorted=*/true,
                                     /*return_inverse=*/true);  // [U], as timestep
  const at::Tensor wave =
      timestep_wave(distinct, config_.freq_dim).to(profile_.kept);                // [U, freq_dim]
  const at::Tensor temb = time_2_(at::silu(time_1_(wave))).to(profile_.compute);  // [U, D]
  const at::Tensor tproj =
      time_proj_(at::silu(temb)).unflatten(1, {6, config_.width()}).to(profile_.wide);  // [U, 6, D]
  return {.x = x, .temb = temb, .time = Modulation(tproj, row)};
}

at::Tensor WanDit::head_out(const State& state, at::IntArrayRef latent_sizes) const {
  const at::ScalarType type = profile_.compute, wide = profile_.wide;
  at::Tensor table =
      scale_shift_table_.to(wide) + state.temb.to(wide).unsqueeze(1);  // [U, 2, D]: shift, scale
  at::Tensor one_plus_scale = 1 + table;
  at::Tensor norm =
      at::layer_norm(state.x.to(wide), {state.x.size(-1)}, {}, {}, config_.eps);  // [B, S, D]
  if (profile_.head_modulation_in_compute) {
    table = table.to(type).to(wide);
    one_plus_scale = (1 + table).to(type).to(wide);
  }
  if (profile_.rounds_norm_before_scale) {
    norm = norm.to(type).to(wide);
  }
  const at::Tensor shift = Modulation(table, state.time.row()).vector(0);
  const at::Tensor scale = Modulation(one_plus_scale, state.time.row()).vector(1);
  const at::Tensor y = proj_out_(at::addcmul(shift, norm, scale).to(type));  // [B, S, 4*C]
  const int64_t B = latent_sizes[0], T = latent_sizes[2], H = latent_sizes[3], W = latent_sizes[4];
  const int64_t h = config_.patch_h, w = config_.patch_w;
  return y
      .view({B, T, H / h, W / w, 1, h, w, config_.out_channels})  // channel innermost
      .permute({0, 7, 1, 4, 2, 5, 3, 6})                          // [B, C, T, 1, H/2, 2, W/2, 2]
      .reshape({B, config_.out_channels, T, H, W});
}

at::Tensor WanDit::forward(const at::Tensor& latents,
                           const at::Tensor& timestep,
                           const at::Tensor& text,
                           const ops::AttentionPlan& plan) const {
  Shapes("WanDit").expect("text", text.sizes(), str(latents.size(0), " L ", config_.width()));
  State state = head_in(latents, timestep, plan);
  const Rope rope = rope_for(plan, latents.device());
  for (const auto& block : blocks_) {
    state.x = block->forward(state.x, text, state.time, rope, *attention_, plan);
  }
  return head_out(state, latents.sizes());
}

}  // namespace fastwan::models
