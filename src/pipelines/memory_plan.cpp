#include "pipelines/memory_plan.h"

#include <algorithm>

#include "io/safetensors.h"
#include "models/layout/cost.h"
#include "models/layout/tensors.h"

namespace fastwan::pipelines {
namespace {

int64_t size_of(at::ScalarType type) {
  return static_cast<int64_t>(c10::elementSize(type));
}

}  // namespace

int64_t WeightBytes::together() const {
  return std::max(text_encoder, transformer + transformer_2 + vae);
}

int64_t WeightBytes::largest() const {
  return std::max({text_encoder, transformer, transformer_2, vae});
}

WeightBytes weight_bytes(const layout::ModelFolder& model, bool is_gated, const Precisions& types) {
  const auto transformer_bytes = [&](layout::WanDitConfig config) {
    config.is_gated = is_gated;
    return layout::num_parameters(layout::tensors_of(config)) * size_of(types.transformer.compute);
  };
  WeightBytes out;
  out.transformer = transformer_bytes(model.transformer_config);
  if (model.transformer_2_config) {
    out.transformer_2 = transformer_bytes(*model.transformer_2_config);
  }
  out.largest_block = std::max(out.transformer, out.transformer_2) /
                      std::max<int64_t>(1, model.transformer_config.num_layers);
  out.vae = layout::num_parameters(layout::tensors_of(model.vae_config)) * size_of(types.vae);
  out.text_encoder = types.text_encoder_held
                         ? layout::num_parameters(layout::tensors_of(model.text_encoder_config)) *
                               size_of(*types.text_encoder_held)
                         : io::WeightFiles::open(model.text_encoder).total_bytes();
  return out;
}

int64_t activation_bytes(const layout::ModelFolder& model,
                         const layout::LatentSize& latent,
                         const Precisions& types) {
  const layout::WanDitConfig& dit = model.transformer_config;
  const double transformer = layout::forward_memory(dit, layout::token_grid(dit, latent), {},
                                                    size_of(types.transformer.compute));
  const double vae = layout::decode_memory(model.vae_config, latent, size_of(types.vae));
  return static_cast<int64_t>(std::max(transformer, vae));
}

config::Offload choose_offload(const WeightBytes& weights,
                               int64_t activations,
                               int64_t free_bytes,
                               bool is_cpu) {
  if (weights.together() + activations <= free_bytes) {
    return config::Offload::kNone;
  }
  if (is_cpu || weights.largest() + activations <= free_bytes) {
    return config::Offload::kStage;
  }
  return config::Offload::kLayer;
}

}  // namespace fastwan::pipelines
