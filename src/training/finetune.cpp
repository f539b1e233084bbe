#include "training/finetune.h"

#include <utility>

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "diffusion/sample_noise.h"

namespace fastwan::training {

Finetune::Finetune(Role student, FinetuneOptions options, std::optional<Role> low_noise)
    : options_(std::move(options)), student_(std::move(student)), low_noise_(std::move(low_noise)) {
  if (options_.caption_dropout > 0 && !options_.unconditional.defined()) {
    throw InvalidInput(Code::kBadConfig,
                       "finetune: caption dropout needs the embedding of the unconditional text");
  }
  if ((options_.boundary > 0) != low_noise_.has_value()) {
    throw InvalidInput(Code::kBadConfig,
                       "finetune: a boundary ratio goes with a second expert, and only with one");
  }
  Finetune::settle(1);
}

std::vector<std::string> Finetune::updates(int64_t step) const {
  const bool is_low = low_noise_ && trains_low_noise(options_.seed, step, options_.boundary);
  return {is_low ? kLowNoise : kStudent};
}

Metrics Finetune::accumulate(const std::string& network,
                             int64_t step,
                             const MicroBatch& batch,
                             double share) {
  const bool is_low = network == kLowNoise;
  Role& role = is_low ? *low_noise_ : student_;
  ramp_sparsity(role, options_.ramp, step);

  const DrawKey key{.seed = options_.seed, .stream = Stream::kFlowTimestep, .step = step};
  std::vector<double> levels = draw_u(options_.law, key, batch.slots);
  for (double& level : levels) {
    level =
        sigma_of(is_low ? restricted_to_low_noise(level, options_.boundary) : level, options_.law);
  }
  const at::Tensor sigma = as_sigma(levels);               // [b]
  const at::Tensor x0 = batch.latents.to(options_.state);  // [b, C, T, H, W]
  const at::Tensor noise = diffusion::noise_like(
      x0, {.seed = options_.seed, .stream = Stream::kFlowNoise, .step = step}, batch.slots);
  const at::Tensor text = with_caption_dropout(batch.text, options_.unconditional,
                                               options_.caption_dropout, key, batch.slots);
  const at::Tensor x = noised(x0, noise, sigma);

  const c10::AutoGradMode with_gradient(true);
  const at::Tensor velocity = role.velocity(x, timestep_of(sigma, x), text);
  const at::Tensor loss = options_.target == FlowTarget::kVelocity
                              ? flow_loss(velocity, x0, noise)
                              : preconditioned_loss(velocity, x, x0, sigma);  // [b]
  (loss.mean() * share).backward();

  const std::vector<double> losses = to_vector(loss), timesteps = to_vector(1000.0 * sigma);
  check_finite({.what = "the flow-matching loss", .step = step}, losses, timesteps, batch.slots);
  Metrics metrics{{"train_loss", mean_of(losses)}, {"flow_timestep", mean_of(timesteps)}};
  add_by_timestep(metrics, "train_loss", losses, timesteps);
  add_sparsity(metrics, role, options_.ramp, step);
  return metrics;
}

void Finetune::settle(int64_t step) {
  ramp_sparsity(student_, options_.ramp, step);
  if (low_noise_) {
    ramp_sparsity(*low_noise_, options_.ramp, step);
  }
}

std::map<std::string, Trained> Finetune::networks() {
  std::map<std::string, Trained> networks{{kStudent, {.units = student_.units}}};
  if (low_noise_) {
    networks[kLowNoise] = {.units = low_noise_->units};
  }
  return networks;
}

}  // namespace fastwan::training
