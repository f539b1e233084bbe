// A model folder in Diffusers layout, read without weights: components, configs, geometry, whether
// it is gated.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "models/layout/configs.h"

namespace fastwan::layout {

// Other places for single components (--transformer, --vae, --text-encoder, --tokenizer); empty:
// the folder's own.
struct Overrides {
  Path transformer, vae, text_encoder, tokenizer;
};

struct ModelFolder {
  Path folder;
  std::string class_name;  // WanPipeline, WanDMDPipeline
  Path transformer, vae, text_encoder, tokenizer;
  std::optional<Path> transformer_2;  // the low-noise expert of A14B
  WanDitConfig transformer_config;    // is_gated is not known here: the weights' names decide
  std::optional<WanDitConfig> transformer_2_config;
  WanVaeConfig vae_config;
  Umt5Config text_encoder_config;
  std::optional<SchedulerConfig> scheduler;
  std::optional<double> boundary_ratio;
  bool expand_timesteps = false;  // TI2V: a first frame may be given

  // Pixels of one token's side: VAE scale times patch.
  int64_t size_multiple() const {
    return vae_config.scale_factor_spatial * transformer_config.patch_h;
  }
};

// `model`: a Diffusers folder, or a single transformer .safetensors (original Wan or Diffusers
// names) with overrides for the rest. IoError not_found naming the missing component, InvalidInput
// unsupported_model or bad_model.
ModelFolder open_model_folder(const Path& model, const Overrides& overrides);

// Latent sizes of a video.
struct LatentSize {
  int64_t channels = 0, frames = 0, height = 0, width = 0;
};
LatentSize latent_size(const ModelFolder& model, int64_t num_frames, int64_t height, int64_t width);

}  // namespace fastwan::layout
