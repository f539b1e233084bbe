// Many clips of a small model at once: where one forward of one clip does not fill the device.
//
// Dims    B clips, C T H W latent, L text tokens, D text width
#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "config/generate.h"
#include "diffusion/samplers.h"
#include "models/wan_dit.h"

namespace fastwan::pipelines {

struct BatchSampling {
  config::Sampler sampler = config::Sampler::kUnipc;
  int64_t steps = 50;                        // unipc, euler
  std::vector<int64_t> dmd_denoising_steps;  // dmd
  bool warp_denoising_step = false;          // they are base timesteps
  double flow_shift = 3;
  double guidance_scale = 1;  // 1: no second forward

  // Forwards for one clip.
  int64_t evaluations() const;
};

// Encoder output of a prompt at its true length [l, D] -> [L, D], zero rows at the end.
at::Tensor pad_text(const at::Tensor& text, int64_t length);

class BatchSampler {
 public:
  // `unconditional` [L, D]: encoder output of the negative prompt.
  BatchSampler(std::shared_ptr<const models::WanDit> dit,
               BatchSampling settings,
               const at::Tensor& unconditional);

  // noise [B, C, T, H, W] fp32 and text [B, L, D], on the model's device -> normalised latents
  // [B, C, T, H, W] fp32. The few-step sampler asks `renoise` for each later step's noise.
  // Stopped between steps; InvalidInput non_finite.
  at::Tensor sample(const at::Tensor& noise,
                    const at::Tensor& text,
                    const diffusion::NoiseAt& renoise,
                    const Watch& watch) const;

 private:
  std::shared_ptr<const models::WanDit> dit_;
  BatchSampling settings_;
  at::Tensor unconditional_;  // [1, L, width], embedded
};

}  // namespace fastwan::pipelines
