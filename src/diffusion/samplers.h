// Samplers: from noise to latents by asking a model for velocities.
//
// Dims    x, velocity [B, C, T, H, W]; x in fp32 unless said
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "diffusion/levels.h"

namespace fastwan::diffusion {

// The flow velocity (noise - x0) at x; step counts from 0.
using Denoiser =
    std::function<at::Tensor(const at::Tensor& x, const NoiseLevel& level, int64_t step)>;
// Fresh noise for the transition into level `step` (from 1).
using NoiseAt = std::function<at::Tensor(int64_t step)>;
// After each step, with the latest estimate of x0; throws to stop. May be empty.
using OnStep = std::function<void(int64_t done, int64_t total, const at::Tensor& x0)>;
// Puts known content back (the first frame of image to video); identity when there is none.
using Impose = std::function<at::Tensor(const at::Tensor& x)>;

struct FewStepOptions {
  // The type that x0 and the re-noised x are rounded to: bf16 follows FastVideo, fp32 rounds
  // nothing.
  at::ScalarType state = at::kFloat;
  Impose impose;  // on the start, every x0 and every re-noised x; empty: none
};

// x0_i = x - sigma_i v(x), in fp64; x = (1 - sigma') x0 + sigma' noise, in fp32. Returns the last
// x0, in the state's type.
at::Tensor sample_few_step(const at::Tensor& noise,
                           const std::vector<NoiseLevel>& levels,
                           const Denoiser& velocity,
                           const NoiseAt& noise_at,
                           const OnStep& on_step,
                           const FewStepOptions& options = {});

// UniPC of order 2, bh2, x0 prediction, lower order at the end; fp32 throughout. `impose` before
// every forward and at the end.
at::Tensor sample_unipc(const at::Tensor& noise,
                        const std::vector<NoiseLevel>& levels,
                        const Denoiser& velocity,
                        const OnStep& on_step,
                        const Impose& impose = {});

// x + (sigma' - sigma) v in fp32, rounded to the velocity's type as the references do. `impose` as
// for UniPC.
at::Tensor sample_euler(const at::Tensor& noise,
                        const std::vector<NoiseLevel>& levels,
                        const Denoiser& velocity,
                        const OnStep& on_step,
                        const Impose& impose = {});

}  // namespace fastwan::diffusion
