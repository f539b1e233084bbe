// Flow matching (Lipman et al., "Flow matching for generative modeling", 2023; the straight path of
// "Rectified flow", Liu et al., 2023) for a batch whose samples have noise levels of their own.
//
//   x_sigma = (1 - sigma) x0 + sigma eps      v = eps - x0      timestep = 1000 sigma
//   x0 = x_sigma - sigma v                    shift_s(b) = s b / (1 + (s - 1) b)
//
// Dims    B batch; x0, eps, v [B, C, T, H, W] or any [B, ...]; sigma, timestep [B]
// Types   noise levels are fp64 on the CPU; sums in fp32, in fp64 where x is fp64
// Source  diffusers training_utils.py (densities), FastVideo training_pipeline.py
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/rng.h"
#include "training/method.h"

namespace fastwan::training {

// --- densities of the noise level ----------------------------------------------------------------

double shifted(double base, double shift);

enum class Density { kUniform, kLogitNormal, kMode };

// u counts from the noisy end, as in diffusers' and FastVideo's falling tables of timesteps: the
// level before the shift is 1 - u.
struct TimestepLaw {
  Density density = Density::kUniform;
  double logit_mean = 0, logit_std = 1;  // u = sigmoid(mean + std z)
  double mode_scale = 1.29;              // u = 1 - w - scale (cos^2(pi w / 2) - 1 + w), w uniform
  double shift = 1;
  // 0: continuous; n: one of the n levels shift(n/n), ..., shift(1/n), the floor(n u)-th.
  int64_t grid = 0;
};
double logit_normal(double normal, const TimestepLaw& law);
double mode_density(double uniform, double scale);
// u in [0, 1] -> sigma. The grid's last level serves u = 1, which the mode density reaches.
double sigma_of(double u, const TimestepLaw& law);

// Two experts: which one an iteration trains. `low_noise` with probability `boundary` (one draw an
// iteration, the same on all ranks); its u is then moved into [1 - boundary, 1].
bool trains_low_noise(uint64_t seed, int64_t step, double boundary);
double restricted_to_low_noise(double u, double boundary);

struct DrawKey {
  uint64_t seed = 0;
  Stream stream = Stream::kFlowTimestep;
  int64_t step = 0;
  int64_t draw = 0;
};
// One u a slot, from the law's density.
std::vector<double> draw_u(const TimestepLaw& law,
                           const DrawKey& key,
                           std::span<const int64_t> slots);
at::Tensor as_sigma(std::span<const double> values);  // [B] fp64 on the CPU

// --- the path and the losses ---------------------------------------------------------------------

// [B] -> [B, 1, ...] to multiply `like` with, in its dtype and on its device.
at::Tensor per_sample(const at::Tensor& values, const at::Tensor& like);

at::Tensor noised(const at::Tensor& x0, const at::Tensor& noise, const at::Tensor& sigma);
at::Tensor predicted_x0(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& sigma);
// What a network is told: [B] in x's dtype (fp32 or fp64) and on its device.
at::Tensor timestep_of(const at::Tensor& sigma, const at::Tensor& x);

// Mean over each sample of (v - (eps - x0))^2: [B]. No weight by sigma.
at::Tensor flow_loss(const at::Tensor& velocity, const at::Tensor& x0, const at::Tensor& noise);
// The same of the content that v implies: mean of (x_sigma - sigma v - x0)^2, that is sigma^2 times
// the loss above: [B].
at::Tensor preconditioned_loss(const at::Tensor& velocity,
                               const at::Tensor& x,
                               const at::Tensor& x0,
                               const at::Tensor& sigma);

// Rows of `text` [B, L, D] whose slot is drawn (probability `rate`, one draw a step and slot)
// become `unconditional` [L', D], cut or zero-padded to L rows: the embedding that sampling takes
// as its unconditional input.
at::Tensor with_caption_dropout(const at::Tensor& text,
                                const at::Tensor& unconditional,
                                double rate,
                                const DrawKey& key,
                                std::span<const int64_t> slots);
// [L', D] -> [B, L, D] as above.
at::Tensor unconditional_rows(const at::Tensor& unconditional, const at::Tensor& text);

}  // namespace fastwan::training
