// From what the user said and what the model is to one complete, legal set of values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/generate.h"
#include "config/presets.h"

namespace fastwan::config {

// Fills every setting that depends on the model (presets, samplers, backend, seed) and checks all
// of them: legal sizes, few-step rules, contradictions. Returns what should be said once, as plain
// sentences. InvalidInput bad_value or conflict, naming the flag and the nearest legal values.
std::vector<std::string> resolve(Generate& g,
                                 const ModelFacts& facts,
                                 const std::optional<Preset>& folder_preset);

struct Size {
  int64_t width = 0, height = 0;
};
// The size of at most `area` pixels nearest to an image's shape, in multiples (Wan2.2's
// best_output_size).
Size best_output_size(Size image, int64_t area, int64_t multiple);

}  // namespace fastwan::config
