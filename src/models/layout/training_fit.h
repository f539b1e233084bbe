// Whether the networks of one training run see the same latents and texts: from configs alone, for
// the run and for its plan.
#pragma once

#include <cstdint>
#include <string>

#include "models/layout/configs.h"
#include "models/layout/model_folder.h"

namespace fastwan::layout {

// What the VAE and the text encoder of a run make.
struct TrainingInputs {
  std::string model;            // where they lie
  int64_t latent_channels = 0;  // 0 here and below: not known
  int64_t pixels_a_latent = 0;
  int64_t text_width = 0;
};

// A role's network: its part in the run, where it lies, its config.
struct TrainedNetwork {
  std::string role;
  std::string place;
  const WanDitConfig& config;
};

// InvalidInput conflict, all three.
void check_inputs(const TrainedNetwork& network, const TrainingInputs& inputs);
// Pixels must be whole latents; 0: of no size that is known.
void check_pixels(int64_t height, int64_t width, const TrainingInputs& inputs);
// Latents must be whole patches.
void check_patches(const TrainedNetwork& network, const LatentSize& latent);

}  // namespace fastwan::layout
