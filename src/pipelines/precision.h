// In which types a run computes and whose roundings it follows.
#pragma once

#include <optional>

#include "config/generate.h"
#include "models/wan_dit.h"
#include "models/wan_vae.h"

namespace fastwan::pipelines {

struct Precisions {
  models::RoundingProfile transformer;
  at::ScalarType vae = at::kFloat;
  at::ScalarType text_encoder = at::kFloat;
  std::optional<at::ScalarType> text_encoder_held;  // absent: as stored
  at::ScalarType state = at::kFloat;                // few-step: x0 and re-noised latents
  models::LatentForm latent_form = models::LatentForm::kDiffusers;
};

// fp32 on the CPU with the text encoder's weights as stored; bf16 on a GPU, where the VAE follows
// its reference: fp32 for diffusers, bf16 for FastVideo. Flags override each.
Precisions choose_precisions(const config::Generate& settings, at::Device device);

}  // namespace fastwan::pipelines
