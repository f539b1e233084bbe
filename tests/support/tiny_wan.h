// For tests: a WanDit of a few thousand parameters with generated weights, and a batch for it.
#pragma once

#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/tensor.h>

#include "models/wan_dit.h"
#include "support/golden.h"
#include "training/network.h"

namespace fastwan::testing {

inline std::shared_ptr<const ops::Attention> dense() {
  return std::make_shared<ops::FullAttention>();
}
inline std::shared_ptr<const ops::Attention> sparse(double sparsity = 0.6) {
  return std::make_shared<ops::VsaAttention>(ops::Sparsity{.value = sparsity}, /*gated=*/true);
}

// Width 24, 2 heads; gated where the attention wants it.
inline std::shared_ptr<models::WanDit> tiny_wan(std::shared_ptr<const ops::Attention> attention,
                                                at::ScalarType compute,
                                                int64_t num_layers = 3) {
  layout::WanDitConfig config;
  config.num_heads = 2;
  config.head_dim = 12;
  config.num_layers = num_layers;
  config.ffn_dim = 40;
  config.in_channels = config.out_channels = 4;
  config.text_dim = 10;
  config.freq_dim = 16;
  config.is_gated = attention->wants_gate();
  auto model = std::make_shared<models::WanDit>(config, std::move(attention),
                                                training::training_profile(compute), at::kCPU);
  fill_golden_weights(*model, "tiny_wan");
  return model;
}

struct TinyBatch {
  at::Tensor latents;   // [B, 4, T, H, W] noisy
  at::Tensor timestep;  // [B]
  at::Tensor encoded;   // [B, 5, 10], the last rows zero
  at::Tensor target;    // as latents: noise - content

  TinyBatch rows(int64_t first, int64_t count) const {
    return {latents.narrow(0, first, count), timestep.narrow(0, first, count),
            encoded.narrow(0, first, count), target.narrow(0, first, count)};
  }
};

// `is_large`: 5x6x7 tokens, 8 ragged tiles; else 2x2x3 tokens.
inline TinyBatch tiny_batch(bool is_large, at::ScalarType type, int64_t B = 2) {
  const std::vector<int64_t> sizes =
      is_large ? std::vector<int64_t>{B, 4, 5, 12, 14} : std::vector<int64_t>{B, 4, 2, 4, 6};
  const at::Tensor content = golden_tensor("tiny_batch", "content", sizes).to(type);
  const at::Tensor noise = golden_tensor("tiny_batch", "noise", sizes).to(type);
  const at::Tensor sigma =
      (golden_tensor("tiny_batch", "sigma", {B}) * 0.2 + 0.5).clamp(0.05, 0.95).to(type);
  const at::Tensor s = sigma.view({-1, 1, 1, 1, 1});
  at::Tensor encoded = golden_tensor("tiny_batch", "text", {B, 5, 10}).to(type);
  encoded.narrow(1, 3, 2).zero_();
  return {.latents = (1 - s) * content + s * noise,
          .timestep = 1000 * sigma,
          .encoded = encoded,
          .target = noise - content};
}

// mean (v - target)^2 in the target's type.
inline at::Tensor flow_loss(const at::Tensor& velocity, const at::Tensor& target) {
  return at::mse_loss(velocity.to(target.scalar_type()), target);
}
inline at::Tensor flow_loss(training::Network& network, const TinyBatch& batch) {
  return flow_loss(network.velocity(batch.latents, batch.timestep, batch.encoded), batch.target);
}

// Whole gradients of a network by tensor name; one rank.
inline std::vector<training::Units::Named> gradients_of(const training::Units& units) {
  std::vector<training::Units::Named> named;
  for (int64_t i = 0; i < units.count(); ++i) {
    for (const training::UnitTensor& tensor : units.layout()[static_cast<std::size_t>(i)].tensors) {
      named.push_back(
          {.name = tensor.name,
           .value = units.gradient(i).narrow(0, tensor.offset, tensor.numel).view(tensor.shape)});
    }
  }
  return named;
}

}  // namespace fastwan::testing
