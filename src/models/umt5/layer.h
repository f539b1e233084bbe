// One layer of the UMT5 encoder.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "models/layout/configs.h"

namespace fastwan::models {

// n(x) * weight with n(x) = x / sqrt(mean(x^2) + eps): statistics in fp32, n rounded to x's type
// before the product.
at::Tensor umt5_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

class Umt5Layer final : public torch::nn::Module {
 public:
  Umt5Layer(const layout::Umt5Config& config, const at::TensorOptions& held);

  // x [B, L, C] in the type of the arithmetic, bucket [L, L] int64 -> [B, L, C].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bucket) const;

 private:
  at::Tensor attention(const at::Tensor& x, const at::Tensor& bucket) const;
  at::Tensor feed_forward(const at::Tensor& x) const;

  int64_t num_heads_;
  double eps_;
  at::Tensor q_, k_, v_;             // [H*D, C]
  at::Tensor o_;                     // [C, H*D]
  at::Tensor position_bias_;         // [buckets, H]
  at::Tensor wi_0_, wi_1_;           // [F, C]
  at::Tensor wo_;                    // [C, F]
  at::Tensor attn_norm_, ffn_norm_;  // [C]
};

}  // namespace fastwan::models
