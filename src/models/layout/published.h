// What is known of the published models by name, where they are not on this machine: sizes, for
// plans, and which cannot be used.
#pragma once

#include <string_view>
#include <vector>

#include "models/layout/configs.h"

namespace fastwan::layout {

struct PublishedModel {
  std::string_view name;  // last part of a hub id
  WanDitConfig transformer;
  int64_t vae_channels = 16;
  int64_t vae_scale = 8;  // pixels a latent; 4 frames a latent everywhere
};

// By hub id or folder name; nullptr for others.
const PublishedModel* published_model(std::string_view model);

// Wan2.1's models that start from an image: no network here has their image branch.
bool is_clip_conditioned(std::string_view model);
inline constexpr const char* kNoImageBranch =
    "models conditioned on CLIP image features (Wan2.1-I2V) are not supported. "
    "For a first frame use Wan2.2-TI2V-5B";

}  // namespace fastwan::layout
