// Defaults per model: size, frames, fps, steps, guidance, sampler, shift, sparsity, negative
// prompt.
//
// Names and sizes are FastVideo's (pipelines/basic/wan/presets.py); the step counts are what really
// runs.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/generate.h"

namespace fastwan::config {

// What is known of a model folder from its configs and tensor names, never from its name.
struct ModelFacts {
  std::string class_name;  // model_index.json: WanPipeline or WanDMDPipeline
  int64_t vae_z = 0;
  int64_t layers = 0;
  int64_t width = 0;  // heads * head size
  bool is_gated = false;
  bool has_transformer_2 = false;
  bool takes_image = false;    // expand_timesteps: the first frame may be given
  int64_t size_multiple = 16;  // VAE scale * patch
  int64_t frames_per_latent = 4;
  std::optional<double> boundary_ratio;   // model_index.json
  std::optional<double> scheduler_shift;  // scheduler_config.json
  std::string scheduler_class;
};

struct Limits {
  Range width, height, num_frames;
};

struct Preset {
  std::string name;
  std::string about;
  std::optional<int64_t> width, height, num_frames, fps, steps;
  std::vector<int64_t> dmd_denoising_steps;
  std::optional<bool> warp_denoising_step;  // the list names base timesteps
  std::optional<double> guidance_scale, guidance_scale_2, boundary_ratio, flow_shift, vsa_sparsity;
  std::optional<Sampler> sampler;
  std::optional<AttentionBackend> attention_backend;  // where the weights' gates do not tell
  std::optional<std::string> negative_prompt;
  std::optional<Limits> limits;  // sizes outside are refused
};

std::span<const Preset> all_presets();
// InvalidInput bad_value with the nearest name.
const Preset& preset_named(const std::string& name);
// The table's row for these facts, or nullptr.
const Preset* preset_for(const ModelFacts& facts);
// fastwan.json of a model folder; keys as in a run file's last word (width, num_frames,
// VSA_sparsity, ...) and "legal": {"width": [min, max], "height": [min, max], "num_frames": [min,
// max]}.
Preset preset_from_json(const Json& json, const std::string& origin);
Json to_json(const Preset& preset);

void apply(const Preset& preset, Origin origin, Generate& into);

}  // namespace fastwan::config
