#include "eval/experiment/clip_maker.h"

#include <algorithm>
#include <numeric>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include "base/rng.h"
#include "data/latent_pool.h"
#include "data/shapes_source.h"
#include "diffusion/sample_noise.h"
#include "models/layout/model_folder.h"
#include "models/wan_dit.h"
#include "pipelines/batch_sampler.h"
#include "pipelines/embeddings.h"

namespace fastwan::eval {
namespace {

using namespace data::shapes;

// [count, 3, F, P, Q], bytes.
at::Tensor render(const Format& format, const PromptSet& prompts, int64_t first, int64_t count) {
  return data::drawn_on_all_threads(count, [&](int64_t i) {
    return data::bytes_of(
        data::shapes::render(format, prompts.scenes[static_cast<std::size_t>(first + i)]));
  });
}

// [n, C, T, H, W] denormalised -> [n, 3, F, P, Q]. Clips are small: whole ones in few operations.
at::Tensor decoded(const SharedParts& parts, const at::Tensor& latents) {
  const at::NoGradGuard no_grad;
  return parts.vae->reconstruct(latents).clamp_(-1, 1);
}

class Rendered final : public ClipMaker {
 public:
  Rendered(const Format& format, const SharedParts& parts, bool reconstructs)
      : format_(format), parts_(parts), reconstructs_(reconstructs) {}

  MadeClips make(const PromptSet& prompts,
                 int64_t first,
                 int64_t count,
                 const Watch& watch) override {
    const at::NoGradGuard no_grad;
    watch.throw_if_stopped();
    MadeClips made;
    made.frames = data::as_pixels(render(format_, prompts, first, count).to(parts_.device));
    const at::Tensor latents = parts_.vae->posterior(made.frames).mean;  // [n, C, T, H, W]
    made.latents = parts_.vae->normalise(latents);
    if (reconstructs_) {
      made.original = made.frames;
      made.frames = decoded(parts_, latents);
    }
    return made;
  }

 private:
  Format format_;
  const SharedParts& parts_;
  bool reconstructs_;
};

class Sampled final : public ClipMaker {
 public:
  Sampled(const config::Evaluation& evaluation,
          const config::EvaluationRow& row,
          const SharedParts& parts)
      : format_(format_of(evaluation)),
        seed_(static_cast<uint64_t>(evaluation.seed)),
        settings_{.sampler = row.sampler,
                  .steps = row.steps,
                  .dmd_denoising_steps = row.dmd_denoising_steps,
                  .warp_denoising_step = row.warp_denoising_step,
                  .flow_shift = row.flow_shift,
                  .guidance_scale = row.guidance_scale},
        parts_(parts),
        sampler_(load(row, parts), settings_, texts({std::string()})[0]) {}

  MadeClips make(const PromptSet& prompts,
                 int64_t first,
                 int64_t count,
                 const Watch& watch) override {
    std::vector<std::string> captions;
    for (int64_t i = first; i < first + count; ++i) {
      captions.push_back(prompts.scenes[static_cast<std::size_t>(i)].caption);
    }
    std::vector<int64_t> slots(static_cast<std::size_t>(count));
    std::iota(slots.begin(), slots.end(), prompts.first_slot + first);
    const auto& vae = parts_.vae->config();
    const at::Tensor like = at::empty(
        {count, vae.z_dim, 1 + (format_.frames - 1) / vae.scale_factor_temporal,
         format_.height / vae.scale_factor_spatial, format_.width / vae.scale_factor_spatial},
        at::TensorOptions(at::kFloat).device(parts_.device));  // [n, C, T, H, W]
    const auto noise = [&](Stream stream, int64_t step) {
      return diffusion::noise_like(like, {.seed = seed_, .stream = stream, .step = step}, slots);
    };
    const at::Tensor latents = sampler_.sample(
        noise(Stream::kInitial, 0), at::stack(texts(captions)),
        [&](int64_t step) { return noise(Stream::kRenoise, step); }, watch);
    return {
        .frames = decoded(parts_, parts_.vae->denormalise(latents, models::LatentForm::kDiffusers)),
        .latents = latents,
        .original = {}};
  }

  int64_t evaluations() const override { return settings_.evaluations(); }

 private:
  static std::shared_ptr<const models::WanDit> load(const config::EvaluationRow& row,
                                                    const SharedParts& parts) {
    const layout::ModelFolder folder = layout::open_model_folder(row.model, {});
    const auto files = io::WeightFiles::open(folder.transformer);
    std::shared_ptr<const ops::Attention> attention;
    if (row.attention_backend == config::AttentionBackend::kVsa) {
      attention = std::make_shared<ops::VsaAttention>(ops::Sparsity{.value = row.vsa_sparsity},
                                                      models::has_gates(files));
    } else {
      attention = std::make_shared<ops::FullAttention>();
    }
    return models::load_wan_dit(
        folder.transformer_config, files, attention,
        {.profile = parts.device.is_cpu() ? models::RoundingProfile::fp32()
                                          : models::RoundingProfile::diffusers_bf16(),
         .device = parts.device,
         .on_note = {}});
  }

  // [L, D] each, on the device.
  std::vector<at::Tensor> texts(const std::vector<std::string>& captions) const {
    std::vector<at::Tensor> encoded =
        data::encode_captions(captions, *parts_.text_encoder, *parts_.tokenizer, parts_.device);
    for (at::Tensor& text : encoded) {
      text = pipelines::pad_text(text, parts_.text_length);
    }
    return encoded;
  }

  Format format_;
  uint64_t seed_;
  pipelines::BatchSampling settings_;
  const SharedParts& parts_;
  pipelines::BatchSampler sampler_;
};

}  // namespace

std::vector<Attributes> PromptSet::wanted(int64_t first, int64_t count) const {
  std::vector<Attributes> out;
  for (int64_t i = first; i < first + count; ++i) {
    out.push_back(scenes[static_cast<std::size_t>(i)].attributes);
  }
  return out;
}

Format format_of(const config::Evaluation& evaluation) {
  return {.frames = evaluation.num_frames,
          .height = evaluation.num_height,
          .width = evaluation.num_width};
}

PromptSet draw_prompts(const config::Evaluation& evaluation,
                       const IndexRange& range,
                       int64_t first,
                       int64_t samples,
                       int64_t first_slot) {
  PromptSet set{.scenes = {}, .first_slot = first_slot};
  for (int64_t i = 0; i < samples; ++i) {
    set.scenes.push_back(draw_scene(format_of(evaluation), static_cast<uint64_t>(evaluation.seed),
                                    range.first + first + i));
  }
  return set;
}

PromptSet draw_repeated(const config::Evaluation& evaluation,
                        int64_t first,
                        int64_t prompts,
                        int64_t per_prompt,
                        int64_t first_slot) {
  const PromptSet said = draw_prompts(evaluation, kEvaluation, first, prompts, first_slot);
  PromptSet set{.scenes = {}, .first_slot = first_slot};
  for (int64_t p = 0; p < prompts; ++p) {
    const Scene& one = said.scenes[static_cast<std::size_t>(p)];
    for (int64_t i = 0; i < per_prompt; ++i) {
      Scene scene =
          draw_scene(format_of(evaluation), static_cast<uint64_t>(evaluation.seed),
                     kEvaluation.first + first + prompts + p * per_prompt + i, one.attributes);
      scene.caption = one.caption;
      set.scenes.push_back(std::move(scene));
    }
  }
  return set;
}

SharedParts load_shared_parts(const config::Evaluation& evaluation, at::Device device) {
  const layout::ModelFolder folder = layout::open_model_folder(evaluation.model, {});
  return {.vae = models::load_wan_vae(folder.vae, {.device = device}),
          .text_encoder =
              models::load_umt5(folder.text_encoder, {.held = at::kFloat, .device = device}),
          .tokenizer = text::open_tokenizer(folder.tokenizer),
          .text_length = pipelines::text_length(folder),
          .device = device};
}

std::unique_ptr<ClipMaker> make_clip_maker(const config::Evaluation& evaluation,
                                           const config::EvaluationRow& row,
                                           const SharedParts& parts) {
  if (row.clips == config::ClipsFrom::kSampled) {
    return std::make_unique<Sampled>(evaluation, row, parts);
  }
  return std::make_unique<Rendered>(format_of(evaluation), parts,
                                    row.clips == config::ClipsFrom::kReconstructed);
}

}  // namespace fastwan::eval
