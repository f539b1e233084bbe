// Noise that the user brings along.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/files.h"
#include "diffusion/noise.h"

namespace fastwan::pipelines {

// `latents` and `renoise_1`, `renoise_2`, ... [1, C, T, H, W] of a safetensors file; what is
// missing comes from `otherwise`, whose draws stay in step, and is said through `on_note`.
std::unique_ptr<diffusion::NoiseSource> noise_from_file(
    const Path& file,
    diffusion::NoiseShape shape,
    std::unique_ptr<diffusion::NoiseSource> otherwise,
    std::function<void(const std::string&)> on_note);

}  // namespace fastwan::pipelines
