// How often the networks of a distillation run in an iteration: for the plan and for the run's MFU.
#pragma once

#include "config/recipe.h"
#include "models/layout/training_cost.h"

namespace fastwan::cli {

inline layout::DistillPlan distill_plan(const config::Method& method) {
  const bool simulates = method.rollout_mode == config::RolloutMode::kSimulate;
  const auto num_steps = static_cast<double>(method.dmd_denoising_steps.size());
  return {.earlier_forwards = simulates ? (num_steps - 1) / 2 : 0,
          .teacher_forwards = method.real_score_guidance_scale == 1 ? 1 : 2,
          .update_interval = method.generator_update_interval,
          .regresses = config::reads_trajectories(method)};
}

}  // namespace fastwan::cli
