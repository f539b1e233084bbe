// Image to video on TI2V models: the first latent frame is known.
//
// Dims    C latent channels, T H W latent frames, height and width, S = T * H/2 * W/2 tokens
// Source  diffusers pipeline_wan_i2v.py with expand_timesteps; Wan2.2 textimage2video.py
#pragma once

#include <ATen/core/Tensor.h>

#include "io/image.h"
#include "models/wan_vae.h"
#include "ops/attention.h"

namespace fastwan::pipelines {

// An image of the video's size -> its normalised latent [1, C, 1, H, W], fp32: the posterior's
// mean.
at::Tensor encode_first_frame(models::WanVae& vae, const io::Image& image, at::Device device);

// x [1, C, T, H, W] with its first frame replaced by `frame`.
at::Tensor impose_first_frame(const at::Tensor& x, const at::Tensor& frame);

// Per-token timesteps [1, S]: 0 for the tokens of the first latent frame, `timestep` for the
// others.
at::Tensor first_frame_timesteps(double timestep,
                                 const ops::AttentionPlan& plan,
                                 at::Device device);

}  // namespace fastwan::pipelines
