#include "training/dmd/distill.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cosine_similarity.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/square.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "base/text.h"
#include "diffusion/sample_noise.h"
#include "training/ode_regression.h"
#include "training/phase_clock.h"

namespace fastwan::training::dmd {
namespace {

void check_timesteps(const std::vector<double>& timesteps) {
  const bool falls = std::adjacent_find(timesteps.begin(), timesteps.end(), std::less_equal<>()) ==
                     timesteps.end();
  if (timesteps.empty() || !falls || timesteps.front() > 1000 || timesteps.back() <= 0) {
    throw InvalidInput(Code::kBadConfig,
                       str("distill: the student's timesteps must fall within (0, 1000], got ",
                           timesteps.size(), " from ", timesteps.empty() ? 0 : timesteps.front(),
                           " to ", timesteps.empty() ? 0 : timesteps.back()));
  }
}

}  // namespace

Distill::Distill(DistillRoles roles, DistillOptions options)
    : roles_(std::move(roles)), options_(std::move(options)) {
  check_timesteps(options_.timesteps);
  if (options_.guidance_scale != 1.0 && !options_.unconditional.defined()) {
    throw InvalidInput(Code::kBadConfig,
                       "distill: guidance needs the embedding of the unconditional text");
  }
  options_.steps.num_steps = static_cast<int64_t>(options_.timesteps.size());
  if (options_.rollout == Rollout::kData) {
    options_.steps.shared_slots = 1;  // every rank runs one forward whatever its step is
  }
  Distill::settle(1);
}

std::vector<std::string> Distill::updates(int64_t step) const {
  if (step % options_.update_interval == 0 && step > options_.critic_warmup) {
    return {kStudent, kCritic};
  }
  return {kCritic};
}

void Distill::settle(int64_t step) {
  ramp_sparsity(roles_.student, options_.ramp, step);
}

std::map<std::string, Trained> Distill::networks() {
  return {{kStudent, {.units = roles_.student.units}}, {kCritic, {.units = roles_.critic.units}}};
}

Metrics Distill::accumulate(const std::string& network,
                            int64_t step,
                            const MicroBatch& batch,
                            double share) {
  settle(step);
  return network == kStudent ? update_student(step, batch, share)
                             : update_critic(step, batch, share);
}

at::Tensor Distill::like(const MicroBatch& batch) const {
  if (batch.latents.defined()) {
    return batch.latents.to(options_.state);
  }
  std::vector<int64_t> sizes = options_.latent_shape;
  sizes.insert(sizes.begin(), batch.text.size(0));
  return at::empty(sizes, batch.text.options().dtype(options_.state));
}

StudentInput Distill::student_input(const SampleKey& key, const MicroBatch& batch) const {
  const std::vector<int64_t> steps =
      draw_steps(options_.steps,
                 {.seed = key.seed, .stream = key.streams.rollout, .step = key.step}, batch.slots);
  const at::Tensor latents = like(batch);  // [b, C, T, H, W]
  return options_.rollout == Rollout::kData
             ? noised_data(latents, options_.timesteps, steps, key, batch.slots)
             : rolled_out(roles_.student.velocity, latents, batch.text, options_.timesteps, steps,
                          key, batch.slots);
}

Metrics Distill::update_student(int64_t step, const MicroBatch& batch, double share) {
  const SampleKey key{.seed = options_.seed, .step = step, .streams = student_streams()};
  PhaseClock clock(batch.text.device());
  clock.enter("student_sample");
  const StudentInput in = student_input(key, batch);
  at::Tensor with_graph;
  {
    const c10::AutoGradMode with_gradient(true);
    with_graph = student_sample(roles_.student.velocity, in, batch.text);  // [b, C, T, H, W]
  }
  const at::Tensor sample = with_graph.detach();

  clock.enter("scores");
  const at::Tensor sigma = draw_score_sigma(
      options_.score, {.seed = key.seed, .stream = key.streams.timestep, .step = step},
      batch.slots);  // [b]
  const at::Tensor noise = diffusion::noise_like(
      sample, {.seed = key.seed, .stream = key.streams.noise, .step = step}, batch.slots);
  const at::Tensor noisy = noised(sample, noise, sigma);
  const bool is_guided = options_.guidance_scale != 1.0;
  const Scores scores =
      score({.fake = roles_.critic.velocity,
             .real = roles_.teacher,
             .unconditional =
                 is_guided ? unconditional_rows(options_.unconditional, batch.text) : at::Tensor(),
             .guidance_scale = options_.guidance_scale,
             .guidance_interval = options_.guidance_interval,
             .joins_guidance = options_.joins_guidance},
            noisy, sigma, batch.text);
  auto [g, distance] = student_gradient(sample, scores);
  const at::Tensor faults = count_non_finite(g);  // [b]
  if (options_.non_finite == NonFinite::kZero) {
    g = at::where(at::isfinite(g), g, at::zeros_like(g));
  }
  clock.enter("student_backward");
  // The gradient of surrogate_loss, without its rounding of x^ - (x^ - g).
  with_graph.backward(g * (share / static_cast<double>(g.numel())));
  Metrics metrics;
  if (options_.regression_weight > 0) {
    clock.enter("regression");
    metrics = regress(step, batch, share);
  }

  if (options_.keeps_preview) {
    preview_ = {.sample = sample, .noisy = noisy, .x_fake = scores.x_fake, .x_real = scores.x_real};
  }
  at::Tensor of_samples = at::stack({at::square(g).flatten(1).mean(1), distance,
                                     at::cosine_similarity((scores.x_fake - sample).flatten(1),
                                                           (scores.x_real - sample).flatten(1)),
                                     faults.to(g.scalar_type())});  // [4, b]
  if (options_.non_finite == NonFinite::kZero) {
    of_samples = at::nan_to_num(of_samples);
  }
  const auto B = static_cast<std::size_t>(of_samples.size(1));
  const std::vector<double> values = to_vector(of_samples), timesteps = to_vector(1000.0 * sigma);
  const auto row = [&](std::size_t i) { return std::span(values).subspan(i * B, B); };
  if (options_.non_finite == NonFinite::kStop) {
    check_finite({.what = "the mean square of the score difference", .step = step}, row(0),
                 timesteps, batch.slots);
  }
  std::vector<double> root_mean_square;
  for (const double square : row(0)) {
    root_mean_square.push_back(std::sqrt(square));
  }
  metrics.merge(clock.seconds());
  metrics.merge(Metrics{{"train_generator_loss", 0.5 * mean_of(row(0))},
                        {"generator_timestep", mean_of(to_vector(1000.0 * in.sigma))},
                        {"dmd_timestep", mean_of(timesteps)},
                        {"dmd_distance", mean_of(row(1))},
                        {"dmd_gradient_norm", mean_of(root_mean_square)},
                        {"dmd_cosine", mean_of(row(2))},
                        {"dmd_non_finite", mean_of(row(3))}});
  add_by_timestep(metrics, "dmd_gradient_norm", root_mean_square, timesteps);
  add_sparsity(metrics, roles_.student, options_.ramp, step);
  return metrics;
}

Metrics Distill::regress(int64_t step, const MicroBatch& batch, double share) {
  const TrajectoryDraw drawn = draw_states(
      batch, {.seed = options_.seed, .stream = Stream::kStudentRegression, .step = step},
      options_.state, options_.regression_steps);
  const c10::AutoGradMode with_gradient(true);
  const at::Tensor loss = regression_loss(roles_.student.velocity, drawn, batch.text);  // [b]
  (loss.mean() * (options_.regression_weight * share)).backward();
  const std::vector<double> losses = to_vector(loss), timesteps = to_vector(1000.0 * drawn.sigma);
  check_finite({.what = "the regression loss", .step = step}, losses, timesteps, batch.slots);
  return {{"train_regression_loss", mean_of(losses)}, {"regression_timestep", mean_of(timesteps)}};
}

Metrics Distill::update_critic(int64_t step, const MicroBatch& batch, double share) {
  const SampleKey key{.seed = options_.seed, .step = step, .streams = fake_streams()};
  PhaseClock clock(batch.text.device());
  clock.enter("critic_sample");
  at::Tensor sample;  // [b, C, T, H, W]
  {
    const at::NoGradGuard no_grad;
    sample = student_sample(roles_.student.velocity, student_input(key, batch), batch.text);
  }
  const at::Tensor sigma = draw_score_sigma(
      options_.score, {.seed = key.seed, .stream = key.streams.timestep, .step = step},
      batch.slots);  // [b]
  const at::Tensor noise = diffusion::noise_like(
      sample, {.seed = key.seed, .stream = key.streams.noise, .step = step}, batch.slots);
  const at::Tensor noisy = noised(sample, noise, sigma);

  clock.enter("critic");
  const c10::AutoGradMode with_gradient(true);
  const at::Tensor loss = critic_loss(
      roles_.critic.velocity(noisy, timestep_of(sigma, noisy), batch.text), sample, noise);  // [b]
  (loss.mean() * share).backward();

  const std::vector<double> losses = to_vector(loss), timesteps = to_vector(1000.0 * sigma);
  check_finite({.what = "the critic's loss", .step = step}, losses, timesteps, batch.slots);
  Metrics metrics = clock.seconds();
  metrics["train_fake_score_loss"] = mean_of(losses);
  metrics["fake_score_timestep"] = mean_of(timesteps);
  add_by_timestep(metrics, "train_fake_score_loss", losses, timesteps);
  return metrics;
}

}  // namespace fastwan::training::dmd
