#include <map>

#include <ATen/ops/rms_norm.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>

#include "base/text.h"
#include "models/layout/tensors.h"
#include "models/wan_dit.h"
#include "ops/gelu.h"
#include "ops/residual_norm.h"
#include "ops/rms_rotate.h"

namespace fastwan::models {
namespace {

// RMS over the full width, before the heads are split.
at::Tensor rms(const at::Tensor& x, const at::Tensor& weight, double eps, bool rounds_norm) {
  if (rounds_norm) {
    return at::rms_norm(x, {x.size(-1)}, {}, eps) * weight;
  }
  return at::rms_norm(x, {x.size(-1)}, weight, eps);
}

// Interleaved pairs as complex numbers; products and sum in the rotation's type, one rounding.
at::Tensor rotated(const at::Tensor& x, const Rope& rope) {
  const at::ScalarType wide = at::toRealValueType(rope.rotation.scalar_type());
  const at::Tensor pairs =
      at::view_as_complex(x.to(wide).unflatten(-1, {-1, 2}));                      // [B, S, H, d/2]
  return at::view_as_real(pairs * rope.rotation).flatten(-2).to(x.scalar_type());  // [B, S, H, d]
}

// RMS norm, split into heads, rotated where a rope is given.
struct HeadsArgs {
  const at::Tensor& weight;  // [D]
  const Rope* rope;          // or null
  int64_t num_heads;
  double eps;
  const RoundingProfile& profile;
};
at::Tensor normed_heads(const at::Tensor& x, const HeadsArgs& args) {  // [B, S, D] -> [B, S, H, d]
  const std::vector<int64_t> heads = {args.num_heads, x.size(-1) / args.num_heads};
  const bool rounds_norm = args.profile.rounds_norm_before_scale;
  const ops::RmsRotateInputs in{
      .x = x,
      .weight = args.weight,
      .rotation = args.rope != nullptr ? args.rope->rotation : at::Tensor(),
      .eps = args.eps,
      .rounds_norm = rounds_norm};
  if (ops::has_rms_rotate(in)) {
    return ops::rms_rotate(in).unflatten(-1, heads);
  }
  const at::Tensor split = rms(x, args.weight, args.eps, rounds_norm).unflatten(-1, heads);
  return args.rope != nullptr ? rotated(split, *args.rope) : split;
}

}  // namespace

Modulation Modulation::of_samples() const {
  Modulation picked = *this;
  if (row_.dim() == 1) {
    picked.vectors_ = table_.index_select(0, row_).unsqueeze(2).unbind(1);  // K of [B, 1, D]
  }
  return picked;
}

at::Tensor Modulation::vector(int64_t k) const {
  if (!vectors_.empty()) {
    return vectors_[static_cast<std::size_t>(k)];
  }
  const at::Tensor rows = table_.select(1, k);                     // [U, D]
  const at::Tensor picked = rows.index_select(0, row_.flatten());  // [B or B*S, D]
  return row_.dim() == 1 ? picked.unsqueeze(1)
                         : picked.unflatten(0, row_.sizes());  // [B, 1, D] or [B, S, D]
}

WanBlock::AttentionWeights WanBlock::make_attention(const std::string& name,
                                                    const at::TensorOptions& options) {
  const int64_t width = num_heads_ * head_dim_;
  return {.to_q = Linear::make(*this, name + ".to_q", width, width, options),
          .to_k = Linear::make(*this, name + ".to_k", width, width, options),
          .to_v = Linear::make(*this, name + ".to_v", width, width, options),
          .to_out = Linear::make(*this, name + ".to_out.0", width, width, options),
          .norm_q = add_parameter(*this, name + ".norm_q.weight", {width}, options),
          .norm_k = add_parameter(*this, name + ".norm_k.weight", {width}, options)};
}

WanBlock::WanBlock(const layout::WanDitConfig& config,
                   const RoundingProfile& profile,
                   at::Device device)
    : num_heads_(config.num_heads),
      head_dim_(config.head_dim),
      eps_(config.eps),
      profile_(profile) {
  const int64_t width = config.width();
  const auto compute = at::TensorOptions(profile.compute).device(device);
  const auto kept = at::TensorOptions(profile.kept).device(device);
  scale_shift_table_ = add_parameter(*this, "scale_shift_table", {1, 6, width}, kept);
  attn1_ = make_attention("attn1", compute);
  attn2_ = make_attention("attn2", compute);
  norm2_weight_ = add_parameter(*this, "norm2.weight", {width}, kept);
  norm2_bias_ = add_parameter(*this, "norm2.bias", {width}, kept);
  ffn_in_ = Linear::make(*this, "ffn.net.0.proj", width, config.ffn_dim, compute);
  ffn_out_ = Linear::make(*this, "ffn.net.2", config.ffn_dim, width, compute);
  if (config.is_gated) {
    gate_ = Linear::make(*this, "to_gate_compress", width, width, compute);
  }
}

void WanBlock::add_adapters(const AdapterOptions& options) {
  const std::map<std::string, Linear*> linears = {
      {"attn1.to_q", &attn1_.to_q}, {"attn1.to_k", &attn1_.to_k},
      {"attn1.to_v", &attn1_.to_v}, {"attn1.to_out.0", &attn1_.to_out},
      {"attn2.to_q", &attn2_.to_q}, {"attn2.to_k", &attn2_.to_k},
      {"attn2.to_v", &attn2_.to_v}, {"attn2.to_out.0", &attn2_.to_out},
      {"ffn.net.0.proj", &ffn_in_}, {"ffn.net.2", &ffn_out_},
      {layout::kGateName, &gate_}};
  for (const std::string& name : options.modules) {
    linears.at(name)->add_adapter(*this, name, options.rank, options.scale);
  }
}

at::Tensor WanBlock::self_attention(const at::Tensor& x,
                                    const Rope& rope,
                                    const ops::Attention& attention,
                                    const ops::AttentionPlan& plan) const {
  const std::vector<int64_t> heads = {num_heads_, head_dim_};
  const auto normed = [&](const at::Tensor& weight) {
    return HeadsArgs{
        .weight = weight, .rope = &rope, .num_heads = num_heads_, .eps = eps_, .profile = profile_};
  };
  ops::AttentionInputs in;
  in.q = normed_heads(attn1_.to_q(x), normed(attn1_.norm_q));  // [B, S, H, d]
  in.k = normed_heads(attn1_.to_k(x), normed(attn1_.norm_k));  // [B, S, H, d]
  in.v = attn1_.to_v(x).unflatten(-1, heads);                  // [B, S, H, d]
  if (attention.wants_gate()) {
    in.gate = gate_(x).unflatten(-1, heads);  // [B, S, H, d]: neither normed nor rotated
  }
  return attn1_.to_out(attention.forward(in, plan).flatten(2));  // [B, S, D]
}

at::Tensor WanBlock::cross_attention(const at::Tensor& x, const at::Tensor& text) const {
  const std::vector<int64_t> heads = {num_heads_, head_dim_};
  const auto normed = [&](const at::Tensor& weight) {
    return HeadsArgs{.weight = weight,
                     .rope = nullptr,
                     .num_heads = num_heads_,
                     .eps = eps_,
                     .profile = profile_};
  };
  const at::Tensor q = normed_heads(attn2_.to_q(x), normed(attn2_.norm_q));     // [B, S, H, d]
  const at::Tensor k = normed_heads(attn2_.to_k(text), normed(attn2_.norm_k));  // [B, L, H, d]
  const at::Tensor v = attn2_.to_v(text).unflatten(-1, heads);                  // [B, L, H, d]
  return attn2_.to_out(ops::dense_attention(q, k, v).flatten(2));               // [B, S, D]
}

at::Tensor WanBlock::forward(const at::Tensor& x_in,
                             const at::Tensor& text,
                             const Modulation& time,
                             const Rope& rope,
                             const ops::Attention& attention,
                             const ops::AttentionPlan& plan) const {
  const at::ScalarType wide = profile_.wide;
  const Modulation m = Modulation(scale_shift_table_.to(wide) + time.table(), time.row())
                           .of_samples();  // 6 vectors: shift, scale, gate twice

  const at::Tensor n1 =
      ops::residual_norm({.x = x_in, .scale = m.vector(1), .shift = m.vector(0), .eps = eps_})
          .normed;
  const auto see = ops::residual_norm({.x = x_in,
                                       .y = self_attention(n1, rope, attention, plan),
                                       .gate = m.vector(2),
                                       .scale = norm2_weight_.to(wide),
                                       .shift = norm2_bias_.to(wide),
                                       .eps = eps_,
                                       .adds_one = false,
                                       .reads_rounded = !profile_.norm2_reads_unrounded});
  const auto hear = ops::residual_norm({.x = see.sum,
                                        .y = cross_attention(see.normed, text),
                                        .scale = m.vector(4),
                                        .shift = m.vector(3),
                                        .eps = eps_,
                                        .rounds_norm = profile_.rounds_norm_before_scale});
  const at::Tensor hidden = ops::tanh_gelu(ffn_in_(hear.normed));  // [B, S, F]
  return ops::residual_norm({.x = hear.sum, .y = ffn_out_(hidden), .gate = m.vector(5)})
      .sum;  // think; [B, S, D]
}

}  // namespace fastwan::models
