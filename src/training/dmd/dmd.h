// Distribution matching distillation (Yin et al., "Improved distribution matching distillation",
// 2024) with flow networks: the mathematics, over plain functions.
//
//   student   x^ = x_t - sigma G(x_t, t, c), t one of a short falling list of timesteps
//   scores    at a noised x^:  x_F = x - sigma F(x, t, c)
//             x_R = x_u + scale (x_c - x_u), x_c, x_u = x - sigma R(x, t, c or none);
//             x_R = x_c outside the interval of guidance (Kynkaanniemi et al., "Applying
//             guidance in a limited interval", 2024)
//   gradient  g = (x_F - x_R) / d,  d = mean |x^ - x_R| of each sample;  d loss / d x^ = g / numel
//   critic    mean (F(x, t, c) - (eps - x^))^2 on a fresh x^
//
// Dims    B batch; x [B, C, T, H, W] or any [B, ...]; sigma, timestep, d [B]
// Types   as in flow_matching.h
// Random numbers  Philox by (seed, step, slot): independent of ranks and micro-batches
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/rng.h"
#include "training/flow_matching.h"

namespace fastwan::training::dmd {

// --- laws ----------------------------------------------------------------------------------------

// t = clamp(1000 shift(u / 1000), lowest, highest), u uniform on 0..999.
struct ScoreLaw {
  double shift = 8;
  double lowest = 20, highest = 980;
};
double score_timestep(int64_t u, const ScoreLaw& law);
at::Tensor draw_score_sigma(const ScoreLaw& law,
                            const DrawKey& key,
                            std::span<const int64_t> slots);  // [B]

// A list of base timesteps through the shift: 1000 shift(t / 1000).
std::vector<double> warped(std::span<const double> timesteps, double shift);

// Which step of the list a sample trains: k in 0 .. num_steps - 1.
struct StepLaw {
  int64_t num_steps = 3;
  // Consecutive slots that share one k: 1 each their own; 0 all of an iteration.
  int64_t shared_slots = 1;
  // Above 0: of each `block` consecutive slots the steps appear in fixed numbers (k appears
  // ceil((block - k) / num_steps) times), dealt out by a keyed permutation. With a block that
  // divides a rank's batch, the samples still in a rollout are equally many on all ranks.
  int64_t block = 0;
};
std::vector<int64_t> draw_steps(const StepLaw& law,
                                const DrawKey& key,
                                std::span<const int64_t> slots);

// --- the student's sample ------------------------------------------------------------------------

// Where the student starts: its input and the level of its step.
struct StudentInput {
  at::Tensor x;      // like the latents
  at::Tensor sigma;  // [B]
};

// The random streams of one use of the student.
struct StudentStreams {
  Stream rollout, start, renoise, timestep, noise;
};
StudentStreams student_streams();  // of the student's own update
StudentStreams fake_streams();     // of the critic's

struct SampleKey {
  uint64_t seed = 0;
  int64_t step = 0;
  StudentStreams streams;
};

// Data mode: content noised to its step's level.
StudentInput noised_data(const at::Tensor& x0,
                         std::span<const double> timesteps,
                         std::span<const int64_t> step_of_sample,
                         const SampleKey& key,
                         std::span<const int64_t> slots);

// Simulate mode: from noise like `like`, the student's own steps before k, each prediction noised
// again with fresh noise. Without gradient; a step runs on the samples that still need it, and not
// at all where there are none.
StudentInput rolled_out(const Velocity& student,
                        const at::Tensor& like,
                        const at::Tensor& text,
                        std::span<const double> timesteps,
                        std::span<const int64_t> step_of_sample,
                        const SampleKey& key,
                        std::span<const int64_t> slots);

// x^ = x - sigma G(x, 1000 sigma, text); with gradient where grad mode is on.
at::Tensor student_sample(const Velocity& student, const StudentInput& in, const at::Tensor& text);

// --- scores, gradient, losses --------------------------------------------------------------------

// x_u + scale (x_c - x_u): standard scale, 1 is no guidance. CausVid's w is scale - 1.
at::Tensor guided(const at::Tensor& conditional, const at::Tensor& unconditional, double scale);

// The levels that are guided, both ends included.
struct GuidanceInterval {
  double lowest = 0, highest = 1;  // sigma
};

// `guided` where sigma [B] lies in the interval, `conditional` elsewhere.
at::Tensor guided_within(const GuidanceInterval& interval,
                         const at::Tensor& sigma,
                         const at::Tensor& conditional,
                         const at::Tensor& unconditional,
                         double scale);

struct ScoreNetworks {
  Velocity fake, real;
  at::Tensor unconditional;  // [B, L, text_dim]; undefined where scale is 1
  double guidance_scale = 4.5;
  GuidanceInterval guidance_interval = {};
  // One call of R on both texts (2 B samples) instead of two calls: faster, more memory.
  bool joins_guidance = true;
};
struct Scores {
  at::Tensor x_fake, x_real;  // like x^
};
// Without gradient.
Scores score(const ScoreNetworks& networks,
             const at::Tensor& noisy,
             const at::Tensor& sigma,
             const at::Tensor& text);

struct StudentGradient {
  at::Tensor g;         // like x^
  at::Tensor distance;  // [B]: d, mean |x^ - x_R|
};
// Without gradient.
StudentGradient student_gradient(const at::Tensor& sample, const Scores& scores);

// 1/2 mean (x^ - sg(x^ - g))^2, whose gradient by x^ is g / numel.
at::Tensor surrogate_loss(const at::Tensor& sample, const at::Tensor& g);

// [B]: mean of each sample.
at::Tensor critic_loss(const at::Tensor& fake_velocity,
                       const at::Tensor& sample,
                       const at::Tensor& noise);

// Elements that are NaN or infinite, of each sample: [B] int64.
at::Tensor count_non_finite(const at::Tensor& x);

}  // namespace fastwan::training::dmd
