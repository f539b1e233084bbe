// From noise to latents: sampler, guidance, experts, first frame.
#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "config/generate.h"
#include "diffusion/noise.h"
#include "pipelines/components.h"
#include "pipelines/embeddings.h"

namespace fastwan::pipelines {

struct DenoiseInputs {
  TextEmbeddings text;
  at::Tensor first_frame;         // [1, C, 1, H, W]; undefined: text to video
  diffusion::NoiseSource& noise;  // of one video
};

// Final normalised latents [1, C, T, H, W]. Stops between steps; non_finite names the step.
at::Tensor denoise(const config::Generate& settings,
                   Components& components,
                   const DenoiseInputs& in,
                   const Watch& watch);

// Whether a second forward with the negative prompt is made.
bool uses_guidance(const config::Generate& settings);

}  // namespace fastwan::pipelines
