#include "training/dmd/dmd.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "diffusion/sample_noise.h"

namespace fastwan::training::dmd {
namespace {

at::Tensor noise_of(const at::Tensor& like,
                    const SampleKey& key,
                    Stream stream,
                    std::span<const int64_t> slots,
                    int64_t draw = 0) {
  return diffusion::noise_like(
      like, {.seed = key.seed, .stream = stream, .step = key.step, .draw = draw}, slots);
}

std::vector<double> levels_of(std::span<const double> timesteps,
                              std::span<const int64_t> step_of_sample) {
  std::vector<double> sigma;
  for (const int64_t k : step_of_sample) {
    sigma.push_back(timesteps[static_cast<std::size_t>(k)] / 1000.0);
  }
  return sigma;
}

// x^ from x by any network of the velocity.
at::Tensor x0_by(const Velocity& network,
                 const at::Tensor& x,
                 const at::Tensor& sigma,
                 const at::Tensor& text) {
  return predicted_x0(x, network(x, timestep_of(sigma, x), text), sigma);
}

// The steps of one block of slots: fixed numbers of each, in an order that a keyed Fisher-Yates
// shuffle gives.
std::vector<int64_t> dealt_block(const StepLaw& law, const DrawKey& key, int64_t first_slot) {
  std::vector<int64_t> steps(static_cast<std::size_t>(law.block));
  for (std::size_t i = 0; i < steps.size(); ++i) {
    steps[i] = static_cast<int64_t>(i) % law.num_steps;
  }
  const Philox philox(key.seed, key.stream, key.step, first_slot, key.draw);
  for (std::size_t i = steps.size() - 1; i > 0; --i) {
    const double u = philox.uniform(static_cast<int64_t>(i));
    std::swap(steps[i], steps[static_cast<std::size_t>(u * static_cast<double>(i + 1))]);
  }
  return steps;
}

}  // namespace

double score_timestep(int64_t u, const ScoreLaw& law) {
  return std::clamp(1000.0 * shifted(static_cast<double>(u) / 1000.0, law.shift), law.lowest,
                    law.highest);
}

at::Tensor draw_score_sigma(const ScoreLaw& law,
                            const DrawKey& key,
                            std::span<const int64_t> slots) {
  std::vector<double> sigma;
  for (const int64_t slot : slots) {
    const double u = Philox(key.seed, key.stream, key.step, slot, key.draw).uniform(0);
    sigma.push_back(score_timestep(static_cast<int64_t>(1000.0 * u), law) / 1000.0);
  }
  return as_sigma(sigma);
}

std::vector<double> warped(std::span<const double> timesteps, double shift) {
  std::vector<double> out;
  for (const double timestep : timesteps) {
    out.push_back(1000.0 * shifted(timestep / 1000.0, shift));
  }
  return out;
}

std::vector<int64_t> draw_steps(const StepLaw& law,
                                const DrawKey& key,
                                std::span<const int64_t> slots) {
  std::vector<int64_t> steps, block;
  int64_t block_at = -1;
  for (const int64_t slot : slots) {
    if (law.block > 0) {
      const int64_t first = slot - slot % law.block;
      if (first != block_at) {
        block = dealt_block(law, key, first);
        block_at = first;
      }
      steps.push_back(block[static_cast<std::size_t>(slot - first)]);
      continue;
    }
    const int64_t sharer = law.shared_slots > 0 ? slot - slot % law.shared_slots : 0;
    const double u = Philox(key.seed, key.stream, key.step, sharer, key.draw).uniform(0);
    steps.push_back(static_cast<int64_t>(u * static_cast<double>(law.num_steps)));
  }
  return steps;
}

StudentStreams student_streams() {
  return {.rollout = Stream::kStudentRollout,
          .start = Stream::kStudentStart,
          .renoise = Stream::kStudentRenoise,
          .timestep = Stream::kStudentTimestep,
          .noise = Stream::kStudentNoise};
}

StudentStreams fake_streams() {
  return {.rollout = Stream::kFakeRollout,
          .start = Stream::kFakeStart,
          .renoise = Stream::kFakeRenoise,
          .timestep = Stream::kFakeTimestep,
          .noise = Stream::kFakeNoise};
}

StudentInput noised_data(const at::Tensor& x0,
                         std::span<const double> timesteps,
                         std::span<const int64_t> step_of_sample,
                         const SampleKey& key,
                         std::span<const int64_t> slots) {
  const at::Tensor sigma = as_sigma(levels_of(timesteps, step_of_sample));
  return {.x = noised(x0, noise_of(x0, key, key.streams.start, slots), sigma), .sigma = sigma};
}

StudentInput rolled_out(const Velocity& student,
                        const at::Tensor& like,
                        const at::Tensor& text,
                        std::span<const double> timesteps,
                        std::span<const int64_t> step_of_sample,
                        const SampleKey& key,
                        std::span<const int64_t> slots) {
  const at::NoGradGuard no_grad;
  at::Tensor x = noise_of(like, key, key.streams.start, slots);
  const int64_t last = *std::max_element(step_of_sample.begin(), step_of_sample.end());
  for (int64_t i = 0; i < last; ++i) {
    std::vector<int64_t> rows, row_slots;
    for (std::size_t b = 0; b < step_of_sample.size(); ++b) {
      if (step_of_sample[b] > i) {
        rows.push_back(static_cast<int64_t>(b));
        row_slots.push_back(slots[b]);
      }
    }
    const at::Tensor at_rows = at::tensor(rows, at::kLong).to(x.device());
    const std::vector<int64_t> here(rows.size(), i), next(rows.size(), i + 1);
    const at::Tensor x0 =
        x0_by(student, x.index_select(0, at_rows), as_sigma(levels_of(timesteps, here)),
              text.index_select(0, at_rows.to(text.device())));
    const at::Tensor renoise = noise_of(x0, key, key.streams.renoise, row_slots, i + 1);
    x = x.index_copy(0, at_rows, noised(x0, renoise, as_sigma(levels_of(timesteps, next))));
  }
  return {.x = x, .sigma = as_sigma(levels_of(timesteps, step_of_sample))};
}

at::Tensor student_sample(const Velocity& student, const StudentInput& in, const at::Tensor& text) {
  return x0_by(student, in.x, in.sigma, text);
}

at::Tensor guided(const at::Tensor& conditional, const at::Tensor& unconditional, double scale) {
  return unconditional + scale * (conditional - unconditional);
}

at::Tensor guided_within(const GuidanceInterval& interval,
                         const at::Tensor& sigma,
                         const at::Tensor& conditional,
                         const at::Tensor& unconditional,
                         double scale) {
  const at::Tensor is_within =
      at::logical_and(sigma >= interval.lowest, sigma <= interval.highest);  // [B]
  return at::where(per_sample(is_within, conditional).to(at::kBool),
                   guided(conditional, unconditional, scale), conditional);
}

Scores score(const ScoreNetworks& networks,
             const at::Tensor& noisy,
             const at::Tensor& sigma,
             const at::Tensor& text) {
  const at::NoGradGuard no_grad;
  Scores scores{.x_fake = x0_by(networks.fake, noisy, sigma, text), .x_real = {}};
  if (networks.guidance_scale == 1.0) {
    scores.x_real = x0_by(networks.real, noisy, sigma, text);
    return scores;
  }
  invariant(networks.unconditional.defined(), "guidance needs an unconditional text");
  const auto guided_here = [&](const at::Tensor& conditional, const at::Tensor& unconditional) {
    return guided_within(networks.guidance_interval, sigma, conditional, unconditional,
                         networks.guidance_scale);
  };
  if (networks.joins_guidance) {
    const auto both = x0_by(networks.real, at::cat({noisy, noisy}), at::cat({sigma, sigma}),
                            at::cat({text, networks.unconditional}))
                          .chunk(2, 0);
    scores.x_real = guided_here(both[0], both[1]);
  } else {
    scores.x_real = guided_here(x0_by(networks.real, noisy, sigma, text),
                                x0_by(networks.real, noisy, sigma, networks.unconditional));
  }
  return scores;
}

StudentGradient student_gradient(const at::Tensor& sample, const Scores& scores) {
  const at::NoGradGuard no_grad;
  const at::Tensor distance = at::abs(sample - scores.x_real).flatten(1).mean(1);  // [B]
  return {.g = (scores.x_fake - scores.x_real) / per_sample(distance, sample),
          .distance = distance};
}

at::Tensor surrogate_loss(const at::Tensor& sample, const at::Tensor& g) {
  return 0.5 * at::mse_loss(sample, (sample - g).detach());
}

at::Tensor critic_loss(const at::Tensor& fake_velocity,
                       const at::Tensor& sample,
                       const at::Tensor& noise) {
  return flow_loss(fake_velocity, sample.detach(), noise);
}

at::Tensor count_non_finite(const at::Tensor& x) {
  return at::isfinite(x).logical_not().flatten(1).sum(1);
}

}  // namespace fastwan::training::dmd
