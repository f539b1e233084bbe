// Latents as the VAE's encoder gives them, and as a transformer sees them.
#pragma once

#include <ATen/core/Tensor.h>

#include "models/layout/configs.h"

namespace fastwan::data {

// (z - mean_c) / std_c and z std_c + mean_c, per channel of the VAE's config. latents [..., C, T,
// H, W] on any device; fp32 comes out, computed in fp64 and rounded once: there and back changes a
// number by at most half a unit in the last place of the stored one, over std_c.
at::Tensor normalise(const at::Tensor& latents, const layout::WanVaeConfig& vae);
at::Tensor denormalise(const at::Tensor& latents, const layout::WanVaeConfig& vae);

}  // namespace fastwan::data
