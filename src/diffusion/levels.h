// Noise levels: which timesteps a sampler visits and how noisy they are.
//
// sigma in [0, 1] is the share of noise in x = (1 - sigma) x0 + sigma noise; timestep in [0, 1000]
// is what the model is told.
// Sources  FastVideo scheduling_flow_match_euler_discrete.py, DmdDenoisingStage; diffusers 0.42.1
//          scheduling_unipc_multistep.py; Wan2.1 fm_solvers_unipc.py
#pragma once

#include <cstdint>
#include <vector>

namespace fastwan::diffusion {

struct NoiseLevel {
  double timestep = 0;
  double sigma = 0;
};

// Few-step (DMD): the given timesteps verbatim; sigma of the table entry (1000 entries, `shift`)
// whose timestep is nearest, the first of equals. InvalidInput bad_value unless they fall strictly
// within [1, 1000].
std::vector<NoiseLevel> few_step_levels(const std::vector<int64_t>& timesteps, double shift);

// The same for a list of base timesteps: each is moved to the timestep and sigma of its own table
// entry, as a student was trained whose recipe says warp_denoising_step.
std::vector<NoiseLevel> warped_few_step_levels(const std::vector<int64_t>& timesteps, double shift);

// Either, as a model's settings say.
std::vector<NoiseLevel> student_levels(const std::vector<int64_t>& timesteps,
                                       double shift,
                                       bool is_warped);

enum class SigmaSchedule { kDiffusers, kFastVideo, kWan };

// UniPC with flow sigmas: n levels, fp32 sigmas, timesteps truncated to integers; the closing sigma
// 0 is not listed.
std::vector<NoiseLevel> unipc_levels(int64_t steps, double shift, SigmaSchedule schedule);

// FlowMatchEuler: n levels; timesteps are not truncated.
std::vector<NoiseLevel> euler_levels(int64_t steps, double shift);

}  // namespace fastwan::diffusion
