// The parts of a training run, built from its recipe: networks, data, method.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "config/recipe.h"
#include "data/source.h"
#include "distributed/comm.h"
#include "models/layout/model_folder.h"
#include "training/export.h"
#include "training/lora.h"
#include "training/method.h"
#include "training/network.h"

namespace fastwan::cli {

struct TrainContext {
  const config::Recipe& recipe;
  at::Device device = at::kCPU;
  distributed::Mesh mesh;
  const Watch& watch;
  std::function<void(const std::string&)> on_note;
};

at::ScalarType compute_type(const config::Recipe& recipe);

// The networks of flow methods by role: student, teacher, critic.
struct RoleNetwork {
  layout::ModelFolder folder;
  std::shared_ptr<training::Network> network;
  std::optional<training::LoraOptions> lora;
  std::string weights_digest;  // of a frozen one
};
using RoleNetworks = std::map<std::string, RoleNetwork>;
RoleNetworks make_networks(const TrainContext& context);

struct TrainData {
  layout::ModelFolder folder;  // of VAE, text encoder and tokenizer
  std::shared_ptr<const data::Source> source;
  at::Tensor unconditional;           // [L, text_dim] fp32 on the device
  std::vector<int64_t> latent_shape;  // [C, T, H, W] of a sample
};
// Loads VAE and text encoder only where something must be encoded; `needs_latents`: whether the
// method reads them. bad_value where a Parquet path is wanted and none is given.
TrainData make_data(const TrainContext& context, bool needs_latents);

std::unique_ptr<training::Method> make_method(const TrainContext& context,
                                              const RoleNetworks& networks,
                                              const TrainData& data);

// How a role's weights become a model folder; where to is left to the caller. A distilled student
// is a few-step model, and a base with a preset of its own gets the run's way of sampling.
training::ExportOptions export_options(const config::Recipe& recipe, const std::string& role);

}  // namespace fastwan::cli
