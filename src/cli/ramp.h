// The sparsity ramp that a recipe asks of its student: for the plan and for the run.
#pragma once

#include "config/recipe.h"
#include "training/schedule.h"

namespace fastwan::cli {

inline training::SparsityRamp ramp_of(const config::Vsa& vsa) {
  const bool ramps = vsa.VSA_decay_interval_steps > 0;
  return {.sparsity = vsa.sparsity,
          .rate = ramps ? vsa.VSA_decay_rate : 0.0,
          .interval = ramps ? vsa.VSA_decay_interval_steps : 1};
}

}  // namespace fastwan::cli
