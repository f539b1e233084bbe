#include "training/vae_method.h"

#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/square.h>

#include "base/check.h"
#include "diffusion/sample_noise.h"
#include "training/module_step.h"
#include "training/role.h"

namespace fastwan::training {
namespace {

constexpr const char* kVae = "student";

at::Tensor widened(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

}  // namespace

at::Tensor kl_divergence(const models::LatentPosterior& posterior) {
  const at::Tensor mean = widened(posterior.mean), logvar = widened(posterior.logvar);
  return 0.5 * (at::square(mean) + at::exp(logvar) - 1.0 - logvar).flatten(1).mean(1);  // [B]
}

TrainVae::TrainVae(std::shared_ptr<models::WanVae> vae,
                   Units& units,
                   const VaeMethodOptions& options)
    : vae_(std::move(vae)), units_(units), options_(options) {}

std::vector<std::string> TrainVae::updates(int64_t /*step*/) const {
  return {kVae};
}

std::map<std::string, Trained> TrainVae::networks() {
  return {{kVae, {.units = &units_}}};
}

models::LatentPosterior TrainVae::posterior_of(const at::Tensor& video) const {
  const at::AutoGradMode records(options_.trains_encoder);
  return vae_->posterior(video);
}

Metrics TrainVae::accumulate(const std::string& /*network*/,
                             int64_t step,
                             const MicroBatch& batch,
                             double share) {
  const at::Tensor video = batch.pixels;  // [b, 3, F, P, Q]
  at::Tensor l1, kl, error;
  const at::Tensor loss = add_gradient(units_, share, [&] {
    const models::LatentPosterior posterior = posterior_of(video);
    const at::Tensor mean = widened(posterior.mean);  // [b, z, T, H, W]
    const at::Tensor noise = diffusion::noise_like(
        mean, {.seed = options_.seed, .stream = Stream::kFlowNoise, .step = step}, batch.slots);
    const at::Tensor z = mean + at::exp(0.5 * widened(posterior.logvar)) * noise;
    const at::Tensor frames = widened(vae_->reconstruct(z));  // [b, 3, F, P, Q]
    invariant(frames.sizes() == video.sizes(), "clips of a VAE's training have 4 k + 1 frames");
    l1 = at::abs(frames - video).mean();
    kl = kl_divergence(posterior).mean();
    const at::Tensor mse = at::mse_loss(frames, video);
    error = mse.detach();
    return l1 + options_.mse_weight * mse + options_.kl_weight * kl;
  });
  const auto value = loss.item<double>();
  check_finite({.what = "the VAE's loss", .step = step}, value);
  return {{"train_loss", value},
          {"vae_l1", l1.item<double>()},
          {"vae_kl", kl.item<double>()},
          {"vae_psnr", 10.0 * std::log10(4.0 / error.item<double>())}};
}

void LatentMoments::add(const models::LatentPosterior& posterior) {
  const auto by_channel = [](const at::Tensor& x) {
    return x.to(at::kCPU, at::kDouble).transpose(0, 1).flatten(1);  // [z, n]
  };
  const at::Tensor mean = by_channel(posterior.mean);
  const at::Tensor sum = mean.sum(1);
  const at::Tensor squares = (at::square(mean) + at::exp(by_channel(posterior.logvar))).sum(1);
  sum_ = sum_.defined() ? sum_ + sum : sum;
  sum_of_squares_ = sum_of_squares_.defined() ? sum_of_squares_ + squares : squares;
  count_ += mean.size(1);
}

std::vector<double> LatentMoments::mean() const {
  return to_vector(sum_ / static_cast<double>(count_));
}

std::vector<double> LatentMoments::std() const {
  const auto n = static_cast<double>(count_);
  return to_vector(at::sqrt(sum_of_squares_ / n - at::square(sum_ / n)));
}

}  // namespace fastwan::training
