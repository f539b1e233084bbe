#include "models/wan_dit.h"

namespace fastwan::models {

RoundingProfile RoundingProfile::fp32() {
  return {};
}

RoundingProfile RoundingProfile::fp64() {
  return {.compute = at::kDouble, .kept = at::kDouble, .wide = at::kDouble};
}

// Diffusers keeps some modules in fp32 when it loads a model as bf16.
RoundingProfile RoundingProfile::diffusers_bf16() {
  return {.compute = at::kBFloat16, .kept = at::kFloat};
}

// FastVideo holds all parameters as bf16 and computes under autocast with fp32 islands.
RoundingProfile RoundingProfile::fastvideo_bf16() {
  return {.compute = at::kBFloat16,
          .kept = at::kBFloat16,
          .rounds_norm_before_scale = true,
          .norm2_reads_unrounded = true,
          .head_modulation_in_compute = true};
}

}  // namespace fastwan::models
