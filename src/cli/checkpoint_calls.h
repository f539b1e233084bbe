// What libfastwan.so is asked about checkpoints of a training run.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/files.h"

namespace fastwan::cli {

struct ConsolidateCall {
  Path checkpoint, to;
  Path base;  // Diffusers folder of the other components; empty: the recipe's
  std::string role = "student";
  bool raw = false;    // the weights themselves where there is an average of them
  std::string dtype;   // fp32, bf16; empty: as the recipe exports
  bool links = false;  // other components as links
  // Where a model of the recipe lies; `commit`: the snapshot that the run took, or empty.
  std::function<Path(const std::string& model, const std::string& commit)> locate;
};

// Exported by C name: fastwan_consolidate, fastwan_diff_checkpoints.
using ConsolidateFunction = void (*)(const ConsolidateCall&);
using DiffFunction = std::vector<std::string> (*)(const Path& a, const Path& b);

}  // namespace fastwan::cli
