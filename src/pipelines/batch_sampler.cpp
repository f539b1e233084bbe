#include "pipelines/batch_sampler.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>

#include "base/check.h"
#include "base/text.h"
#include "diffusion/guidance.h"
#include "diffusion/levels.h"

namespace fastwan::pipelines {

int64_t BatchSampling::evaluations() const {
  const int64_t forwards =
      sampler == config::Sampler::kDmd ? static_cast<int64_t>(dmd_denoising_steps.size()) : steps;
  return guidance_scale == 1.0 ? forwards : 2 * forwards;
}

at::Tensor pad_text(const at::Tensor& text, int64_t length) {
  if (text.size(0) > length) {
    throw InvalidInput(Code::kBadValue, str("a prompt has ", text.size(0),
                                            " tokens; the model hears at most ", length));
  }
  return at::constant_pad_nd(text, {0, 0, 0, length - text.size(0)});
}

BatchSampler::BatchSampler(std::shared_ptr<const models::WanDit> dit,
                           BatchSampling settings,
                           const at::Tensor& unconditional)
    : dit_(std::move(dit)), settings_(std::move(settings)) {
  const at::NoGradGuard no_grad;
  unconditional_ = dit_->embed_text(unconditional.unsqueeze(0));
}

at::Tensor BatchSampler::sample(const at::Tensor& noise,
                                const at::Tensor& text,
                                const diffusion::NoiseAt& renoise,
                                const Watch& watch) const {
  const at::NoGradGuard no_grad;
  const int64_t B = noise.size(0);
  const at::Tensor heard = dit_->embed_text(text);  // [B, L, width]
  const at::Tensor unheard =
      unconditional_.expand({B, unconditional_.size(1), unconditional_.size(2)});
  const ops::AttentionPlan plan = dit_->plan_for(noise.sizes(), noise.device());

  const diffusion::Denoiser velocity = [&](const at::Tensor& x, const diffusion::NoiseLevel& level,
                                           int64_t) {
    const at::Tensor timestep = at::full({B}, level.timestep, noise.options());
    const at::Tensor conditional = dit_->forward(x, timestep, heard, plan);
    if (settings_.guidance_scale == 1.0) {
      return conditional;
    }
    return diffusion::guided(conditional, dit_->forward(x, timestep, unheard, plan),
                             settings_.guidance_scale, /*rescale=*/0);
  };
  const diffusion::OnStep on_step = [&](int64_t, int64_t, const at::Tensor&) {
    watch.throw_if_stopped();
  };

  at::Tensor latents;
  switch (settings_.sampler) {
    case config::Sampler::kDmd:
      latents = diffusion::sample_few_step(
          noise,
          diffusion::student_levels(settings_.dmd_denoising_steps, settings_.flow_shift,
                                    settings_.warp_denoising_step),
          velocity, renoise, on_step);
      break;
    case config::Sampler::kEuler:
      latents = diffusion::sample_euler(
          noise, diffusion::euler_levels(settings_.steps, settings_.flow_shift), velocity, on_step);
      break;
    default:
      latents =
          diffusion::sample_unipc(noise,
                                  diffusion::unipc_levels(settings_.steps, settings_.flow_shift,
                                                          diffusion::SigmaSchedule::kDiffusers),
                                  velocity, on_step);
      break;
  }
  if (!at::isfinite(latents).all().item<bool>()) {
    throw InvalidInput(Code::kNonFinite,
                       "sampling gave NaN or infinity: the model's weights are damaged, or its "
                       "training diverged");
  }
  return latents.to(at::kFloat);
}

}  // namespace fastwan::pipelines
