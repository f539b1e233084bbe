#include <map>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>

#include "base/text.h"
#include "models/layout/tensors.h"
#include "models/wan_dit.h"
#include "ops/rms_rotate.h"

namespace fastwan::models {
namespace {

// LN(x) * (1 + scale) + shift in the type of shift and scale: one rounding at the end, or one
// before the scale too.
at::Tensor modulated(const at::Tensor& x,
                     const at::Tensor& shift,
                     const at::Tensor& scale,
                     double eps,
                     bool rounds_norm,
                     at::ScalarType type) {
  const at::ScalarType wide = shift.scalar_type();
  if (!rounds_norm && shift.numel() == x.size(-1)) {  // one row of modulation: one pass over x
    return at::layer_norm(x.to(wide), {x.size(-1)}, (1 + scale).flatten(), shift.flatten(), eps)
        .to(type);
  }
  at::Tensor norm = at::layer_norm(x.to(wide), {x.size(-1)}, {}, {}, eps);
  if (rounds_norm) {
    norm = norm.to(type).to(wide);
  }
  return at::addcmul(shift, norm, 1 + scale).to(type);
}

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

// Nothing records results for a gradient: they may be overwritten.
bool may_overwrite() {
  return !at::GradMode::is_enabled();
}

// x + y * gate in the type of the gate; y is used up.
at::Tensor gated_sum(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) {
  const at::ScalarType wide = gate.scalar_type();
  at::Tensor wide_y = y.to(wide);
  if (!may_overwrite()) {
    return at::addcmul(x.to(wide), wide_y, gate);
  }
  return at::addcmul_out(wide_y, x.to(wide), wide_y, gate);
}

// RMS norm, split into heads, rotated where a rope is given.
struct HeadsArgs {
  const at::Tensor& weight;  // [D]
  const Rope* rope;          // or null
  int64_t num_heads;
  double eps;
  const RoundingProfile& profile;
};
at::Tensor normed_heads(at::Tensor x, const HeadsArgs& args) {  // [B, S, D] -> [B, S, H, d]
  const std::vector<int64_t> heads = {args.num_heads, x.size(-1) / args.num_heads};
  const bool rounds_norm = args.profile.rounds_norm_before_scale;
  if (args.profile.one_pass_norm && !rounds_norm && ops::has_rms_rotate(x)) {
    ops::rms_rotate_(x, args.weight, args.rope != nullptr ? args.rope->rotation : at::Tensor(),
                     args.eps);
    return x.unflatten(-1, heads);
  }
  const at::Tensor split = rms(x, args.weight, args.eps, rounds_norm).unflatten(-1, heads);
  return args.rope != nullptr ? rotated(split, *args.rope) : split;
}

}  // namespace

at::Tensor Modulation::vector(int64_t k) const {
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
  const at::ScalarType type = profile_.compute;
  const at::ScalarType wide = profile_.wide;
  const bool rounds = profile_.rounds_norm_before_scale;
  const Modulation m(scale_shift_table_.to(wide) + time.table(),
                     time.row());  // 6 vectors: shift, scale, gate twice

  const at::Tensor n1 =
      modulated(x_in, m.vector(0), m.vector(1), eps_, /*rounds_norm=*/false, type);
  const at::Tensor seen = self_attention(n1, rope, attention, plan);
  const at::Tensor sum = gated_sum(x_in, seen, m.vector(2));  // unrounded
  at::Tensor x = sum.to(type);                                // see the video
  const at::Tensor read = profile_.norm2_reads_unrounded ? sum : x.to(wide);
  const at::Tensor n2 =
      at::layer_norm(read, {read.size(-1)}, norm2_weight_.to(wide), norm2_bias_.to(wide), eps_)
          .to(type);
  const at::Tensor heard = cross_attention(n2, text);
  x = may_overwrite() ? heard.add_(x) : x + heard;  // hear the prompt
  const at::Tensor n3 = modulated(x, m.vector(3), m.vector(4), eps_, rounds, type);
  at::Tensor hidden = ffn_in_(n3);  // [B, S, F]
  hidden = may_overwrite() ? at::gelu_(hidden, "tanh") : at::gelu(hidden, "tanh");
  return gated_sum(x, ffn_out_(hidden), m.vector(5)).to(type);  // think; [B, S, D]
}

}  // namespace fastwan::models
