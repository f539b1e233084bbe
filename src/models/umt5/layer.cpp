#include "models/umt5/layer.h"

#include <cmath>
#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include "models/parameters.h"

namespace fastwan::models {
namespace {

// Weights may be held in another type than the arithmetic's: one matrix at a time is cast.
at::Tensor project(const at::Tensor& x, const at::Tensor& weight) {
  return at::linear(x, weight.to(x.scalar_type()));
}

// GELU by tanh, one operation after another: in bf16 each rounds, as in the model's own code.
at::Tensor gelu_new(const at::Tensor& x) {
  const double slope = std::sqrt(2.0 / std::numbers::pi);
  return 0.5 * x * (1.0 + at::tanh(slope * (x + 0.044715 * at::pow(x, 3.0))));
}

}  // namespace

at::Tensor umt5_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return at::rms_norm(x, {x.size(-1)}, {}, eps) * weight.to(x.scalar_type());
}

Umt5Layer::Umt5Layer(const layout::Umt5Config& config, const at::TensorOptions& held)
    : num_heads_(config.num_heads), eps_(config.eps) {
  const int64_t C = config.d_model;
  const int64_t inner = config.num_heads * config.d_kv;
  const std::string attention = "layer.0.SelfAttention.";
  q_ = add_parameter(*this, attention + "q.weight", {inner, C}, held);
  k_ = add_parameter(*this, attention + "k.weight", {inner, C}, held);
  v_ = add_parameter(*this, attention + "v.weight", {inner, C}, held);
  o_ = add_parameter(*this, attention + "o.weight", {C, inner}, held);
  position_bias_ = add_parameter(*this, attention + "relative_attention_bias.weight",
                                 {config.num_buckets, config.num_heads}, held);
  attn_norm_ = add_parameter(*this, "layer.0.layer_norm.weight", {C}, held);
  const std::string dense = "layer.1.DenseReluDense.";
  wi_0_ = add_parameter(*this, dense + "wi_0.weight", {config.d_ff, C}, held);
  wi_1_ = add_parameter(*this, dense + "wi_1.weight", {config.d_ff, C}, held);
  wo_ = add_parameter(*this, dense + "wo.weight", {C, config.d_ff}, held);
  ffn_norm_ = add_parameter(*this, "layer.1.layer_norm.weight", {C}, held);
}

at::Tensor Umt5Layer::attention(const at::Tensor& x, const at::Tensor& bucket) const {
  const auto heads = [this](const at::Tensor& y) {
    return y.unflatten(-1, {num_heads_, -1}).transpose(1, 2);  // [B, H, L, D]
  };
  const at::Tensor q = heads(project(x, q_));
  const at::Tensor k = heads(project(x, k_));
  const at::Tensor v = heads(project(x, v_));
  const at::Tensor bias =
      at::embedding(position_bias_.to(x.scalar_type()), bucket).permute({2, 0, 1});  // [H, L, L]
  // No 1/sqrt(D): the model folds it into q's weights.
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)).add_(bias);  // [B, H, L, L]
  const at::Tensor heard = at::matmul(at::softmax(scores, -1), v);        // [B, H, L, D]
  return project(heard.transpose(1, 2).flatten(2), o_);                   // [B, L, C]
}

at::Tensor Umt5Layer::feed_forward(const at::Tensor& x) const {
  return project(gelu_new(project(x, wi_0_)) * project(x, wi_1_), wo_);  // [B, L, C]
}

at::Tensor Umt5Layer::forward(const at::Tensor& x_in, const at::Tensor& bucket) const {
  const at::Tensor x = x_in + attention(umt5_norm(x_in, attn_norm_, eps_), bucket);
  return x + feed_forward(umt5_norm(x, ffn_norm_, eps_));
}

}  // namespace fastwan::models
