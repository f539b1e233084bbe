// From noise to latents: sampler, guidance, experts, first frame.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "config/generate.h"
#include "diffusion/levels.h"
#include "diffusion/noise.h"
#include "pipelines/components.h"
#include "pipelines/embeddings.h"

namespace fastwan::pipelines {

// B videos of one size at once; one wherever there is a first frame.
struct DenoiseInputs {
  TextEmbeddings text;            // prompt [B, L, D], negative [1, L, D], heard by all
  at::Tensor first_frame;         // [1, C, 1, H, W]; undefined: text to video
  diffusion::NoiseSource& noise;  // [B, C, T, H, W] each time
  // What an error calls each video; empty: nothing, for one video that needs no name.
  std::vector<std::string> names = {};
  // Sees the state [B, C, T, H, W] that each step starts from, steps counted from 0; may be empty.
  std::function<void(int64_t step, const at::Tensor& x)> on_state = {};
};

// The levels of the steps that denoise() makes.
std::vector<diffusion::NoiseLevel> noise_levels(const config::Generate& settings);

// Final normalised latents [B, C, T, H, W]. Stops between steps; non_finite names the step and the
// first video with such a number.
at::Tensor denoise(const config::Generate& settings,
                   Components& components,
                   const DenoiseInputs& in,
                   const Watch& watch);

// Whether a second forward with the negative prompt is made.
bool uses_guidance(const config::Generate& settings);

}  // namespace fastwan::pipelines
