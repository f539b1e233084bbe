// A transformer's weight files, before anything is allocated for them.
#pragma once

#include "io/safetensors.h"
#include "models/layout/configs.h"

namespace fastwan::models {

// From headers alone: what load_wan_dit() refuses of names and shapes for a config whose `is_gated`
// says whether the attention wants gates. InvalidInput missing_weights.
void check_wan_dit_files(const layout::WanDitConfig& config, const io::WeightFiles& files);

}  // namespace fastwan::models
