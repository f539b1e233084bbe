#include "pipelines/denoise.h"

#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>

#include "base/check.h"
#include "base/text.h"
#include "diffusion/guidance.h"
#include "diffusion/levels.h"
#include "diffusion/samplers.h"
#include "pipelines/first_frame.h"

namespace fastwan::pipelines {
namespace {

constexpr double kTrainTimesteps = 1000;

diffusion::SigmaSchedule schedule_of(config::SigmaSchedule schedule) {
  switch (schedule) {
    case config::SigmaSchedule::kFastvideo:
      return diffusion::SigmaSchedule::kFastVideo;
    case config::SigmaSchedule::kWan:
      return diffusion::SigmaSchedule::kWan;
    default:
      return diffusion::SigmaSchedule::kDiffusers;
  }
}

// The velocity of one or more videos: which expert, with which guidance, at which timesteps.
class Velocity {
 public:
  Velocity(const config::Generate& settings,
           Components& components,
           const DenoiseInputs& in,
           const Watch& watch)
      : settings_(settings), components_(components), in_(in), watch_(watch) {}

  at::Tensor operator()(const at::Tensor& x, double timestep) {
    const Expert expert = expert_at(timestep);
    if (!plan_ && !components_.lent()) {
      plan_ = components_.transformer(expert, watch_).plan_for(x.sizes(), x.device());
    }
    hear(expert);
    const at::Tensor times = timesteps(timestep, x);
    const at::Tensor conditional =
        forward(expert, {.latents = x, .timestep = times, .text = text_.prompt});
    const double scale =
        expert == Expert::kHighNoise ? *settings_.guidance_scale : *settings_.guidance_scale_2;
    // As diffusers: the first scale decides whether there is guidance at all, then each expert's
    // own scale holds, below 1 too.
    if (scale == 1.0 || (scale < 1.0 && *settings_.guidance_scale <= 1.0)) {
      return conditional;
    }
    watch_.throw_if_stopped();
    const at::Tensor unconditional =
        forward(expert, {.latents = x, .timestep = times, .text = text_.negative});
    return diffusion::guided(conditional, unconditional, scale, *settings_.guidance_rescale);
  }

 private:
  Expert expert_at(double timestep) const {
    const bool is_low = !components_.lent() && components_.model().transformer_2 &&
                        timestep < *settings_.boundary_ratio * kTrainTimesteps;
    return is_low ? Expert::kLowNoise : Expert::kHighNoise;
  }

  // Each expert has a text embedder of its own; the result depends on the prompt alone.
  void hear(Expert expert) {
    if (heard_by_ == expert) {
      return;
    }
    const auto heard = [&](const at::Tensor& encoded) {
      const at::Tensor here = encoded.to(components_.options().device);  // [B, L, text_dim]
      return components_.lent() ? here : components_.transformer(expert, watch_).embed_text(here);
    };
    text_.prompt = heard(in_.text.prompt);
    if (in_.text.negative.defined()) {
      text_.negative = heard(in_.text.negative);  // [1, L, D] -> [B, L, D]
      text_.negative = text_.negative.expand({text_.prompt.size(0), -1, -1});
    }
    heard_by_ = expert;
  }

  at::Tensor forward(Expert expert, const DitInputs& in) {
    return components_.lent() ? components_.lent()(in.latents, in.timestep, in.text)
                              : components_.velocity(expert, in, *plan_, watch_);
  }

  at::Tensor timesteps(double timestep, const at::Tensor& x) const {
    return in_.first_frame.defined()
               ? first_frame_timesteps(timestep, *plan_, x.device())
               : at::full({x.size(0)}, timestep, at::TensorOptions(at::kFloat).device(x.device()));
  }

  const config::Generate& settings_;
  Components& components_;
  const DenoiseInputs& in_;
  const Watch& watch_;
  std::optional<ops::AttentionPlan> plan_;
  std::optional<Expert> heard_by_;
  TextEmbeddings text_;  // [B, L, D] in the expert's width; a lent transformer embeds them itself
};

// The name of the first video of x [B, ...] that is not finite, ready for the start of a message.
std::string first_bad(const at::Tensor& x, const std::vector<std::string>& names) {
  const at::Tensor is_whole = at::isfinite(x).flatten(1).all(1).cpu();  // [B]
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!is_whole[static_cast<int64_t>(i)].item<bool>()) {
      return names[i] + ": ";
    }
  }
  return "";
}

}  // namespace

bool uses_guidance(const config::Generate& settings) {
  return *settings.guidance_scale > 1.0 || *settings.guidance_scale_2 > 1.0;
}

std::vector<diffusion::NoiseLevel> noise_levels(const config::Generate& settings) {
  switch (*settings.sampler) {
    case config::Sampler::kDmd:
      return diffusion::student_levels(*settings.dmd_denoising_steps, *settings.flow_shift,
                                       *settings.warp_denoising_step);
    case config::Sampler::kEuler:
      return diffusion::euler_levels(*settings.steps, *settings.flow_shift);
    default:
      return diffusion::unipc_levels(*settings.steps, *settings.flow_shift,
                                     schedule_of(*settings.sigma_schedule));
  }
}

at::Tensor denoise(const config::Generate& settings,
                   Components& components,
                   const DenoiseInputs& in,
                   const Watch& watch) {
  invariant(!components.lent() || !in.first_frame.defined(),
            "a lent transformer makes video from text alone");
  invariant(!in.first_frame.defined() || in.text.prompt.size(0) == 1,
            "one video at a time grows from a first frame");
  Velocity velocity(settings, components, in, watch);
  const diffusion::Denoiser denoiser = [&](const at::Tensor& x, const diffusion::NoiseLevel& level,
                                           int64_t step) {
    if (in.on_state) {
      in.on_state(step, x);
    }
    return velocity(x, level.timestep);
  };
  const diffusion::OnStep on_step = [&](int64_t done, int64_t total, const at::Tensor& x0) {
    if (!at::isfinite(x0).all().item<bool>()) {
      throw InvalidInput(Code::kNonFinite,
                         str(first_bad(x0, in.names), "denoising step ", done, " of ", total,
                             " gave NaN or infinity. Are the weights whole? --dit-precision fp32 "
                             "tells overflow from damage"));
    }
    watch.report("denoise", done, total);
    watch.throw_if_stopped();
  };
  diffusion::Impose impose;
  if (in.first_frame.defined()) {
    impose = [&in](const at::Tensor& x) { return impose_first_frame(x, in.first_frame); };
  }
  const at::Tensor noise = in.noise.initial().to(components.options().device);  // [B, C, T, H, W]
  const std::vector<diffusion::NoiseLevel> levels = noise_levels(settings);
  switch (*settings.sampler) {
    case config::Sampler::kDmd:
      return diffusion::sample_few_step(
          noise, levels, denoiser, [&in](int64_t step) { return in.noise.renoise(step); }, on_step,
          {.state = components.options().types.state, .impose = impose});
    case config::Sampler::kEuler:
      return diffusion::sample_euler(noise, levels, denoiser, on_step, impose);
    default:
      return diffusion::sample_unipc(noise, levels, denoiser, on_step, impose);
  }
}

}  // namespace fastwan::pipelines
