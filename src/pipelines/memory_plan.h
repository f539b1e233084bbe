// What stays on the device and what waits elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "config/generate.h"
#include "models/layout/model_folder.h"
#include "pipelines/precision.h"

namespace fastwan::pipelines {

// Weights as they are held while they work.
struct WeightBytes {
  int64_t text_encoder = 0, transformer = 0, transformer_2 = 0, vae = 0;
  int64_t largest_block = 0;  // of a transformer

  // All texts of a run are encoded first; the encoder then leaves.
  int64_t together() const;
  int64_t largest() const;
};
WeightBytes weight_bytes(const layout::ModelFolder& model, bool is_gated, const Precisions& types);

// Activations of the wider of the two stages that matter, the transformer's forward and the
// decoding of one latent frame (models/layout/cost.h).
int64_t activation_bytes(const layout::ModelFolder& model,
                         const layout::LatentSize& latent,
                         const Precisions& types);

// The first mode that fits `free_bytes`: none, stage, layer (GPU only). What fits nowhere gets the
// most frugal mode; whether it really fails is the allocator's word.
config::Offload choose_offload(const WeightBytes& weights,
                               int64_t activations,
                               int64_t free_bytes,
                               bool is_cpu);

}  // namespace fastwan::pipelines
