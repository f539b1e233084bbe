// The model's parts: loaded when first used, kept or let go by the memory plan, shared by all
// videos of a run.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/watch.h"
#include "config/generate.h"
#include "models/layout/model_folder.h"
#include "models/umt5.h"
#include "models/wan_dit.h"
#include "models/wan_vae.h"
#include "pipelines/layer_stream.h"
#include "pipelines/precision.h"

namespace fastwan::pipelines {

// High noise works above the boundary of a model with two transformers, low noise below it; a model
// with one has only the first.
enum class Expert { kHighNoise, kLowNoise };

struct ComponentOptions {
  at::Device device = at::kCPU;
  config::Offload offload = config::Offload::kNone;
  Precisions types;
  bool is_sparse = false;
  bool is_gated = false;  // the weights hold gates
  std::function<void(const std::string&)> on_note;
};

struct DitInputs {
  at::Tensor latents;   // [B, C, T, H, W]
  at::Tensor timestep;  // [B] or [B, S]
  at::Tensor text;      // [B, L, D], of that transformer's embed_text
};

// A network that someone else holds in a transformer's place, as training its student: latents
// [B, C, T, H, W], timestep [B] or [B, S], the text encoder's output [B, L, text_dim] -> velocity
// [B, C, T, H, W].
using LentTransformer = std::function<at::Tensor(
    const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& encoded_text)>;

class Components {
 public:
  Components(const config::Generate& settings,
             const layout::ModelFolder& model,
             ComponentOptions options);
  ~Components();
  Components(const Components&) = delete;
  Components& operator=(const Components&) = delete;

  // From now on this instead of the model folder's transformers.
  void lend(LentTransformer transformer) { lent_ = std::move(transformer); }
  const LentTransformer& lent() const { return lent_; }
  // All parts are let go; what is used later is loaded again.
  void release();

  // Each call loads the part, or brings it back; the others wait elsewhere under `stage`.
  models::Umt5& text_encoder(const Watch& watch);
  void release_text_encoder() { text_encoder_.reset(); }
  models::WanDit& transformer(Expert expert, const Watch& watch);
  models::WanVae& vae(const Watch& watch);

  // A transformer's forward, wherever its blocks lie.
  at::Tensor velocity(Expert expert,
                      const DitInputs& in,
                      const ops::AttentionPlan& plan,
                      const Watch& watch);

  const ComponentOptions& options() const { return options_; }
  const layout::ModelFolder& model() const { return model_; }

 private:
  enum Part { kTextEncoder, kHighNoise, kLowNoise, kVae };
  static Part part_of(Expert expert) {
    return expert == Expert::kHighNoise ? kHighNoise : kLowNoise;
  }
  bool streams(Part part) const;
  torch::nn::Module* module_of(Part part) const;
  void load(Part part, const Watch& watch);
  void drop(Part part);
  void use(Part part, const Watch& watch);
  std::shared_ptr<models::WanDit> load_transformer(Part part, at::Device device) const;

  const config::Generate& settings_;
  const layout::ModelFolder& model_;
  ComponentOptions options_;
  LentTransformer lent_;
  std::shared_ptr<models::Umt5> text_encoder_;
  std::shared_ptr<models::WanDit> transformers_[2];
  std::unique_ptr<LayerStream> streams_[2];
  std::shared_ptr<models::WanVae> vae_;
};

}  // namespace fastwan::pipelines
