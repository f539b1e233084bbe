// Sizes of the published models, for plans about models that are not on this machine.
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

}  // namespace fastwan::layout
