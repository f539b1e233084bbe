#include "data/synthesize/synthesize.h"

#include <algorithm>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/rng.h"
#include "base/text.h"
#include "data/latents.h"
#include "data/rows.h"
#include "diffusion/noise.h"
#include "io/safetensors.h"
#include "pipelines/component_options.h"
#include "pipelines/components.h"
#include "pipelines/denoise.h"
#include "pipelines/embeddings.h"
#include "text/prompt_clean.h"
#include "text/tokenizer.h"

namespace fastwan::data {
namespace {

constexpr int64_t kGroupRows = 8;
constexpr int64_t kPromptsAtOnce = 256;  // encoded together, so that encoder and teacher take turns

class SynthNoise final : public diffusion::NoiseSource {
 public:
  SynthNoise(int64_t seed, int64_t prompt, layout::LatentSize size)
      : seed_(static_cast<uint64_t>(seed)), prompt_(prompt), size_(size) {}

  at::Tensor initial() override { return draw(0); }
  at::Tensor renoise(int64_t step) override { return draw(step); }

 private:
  at::Tensor draw(int64_t step) const {
    const Philox random(seed_, Stream::kSynth, step, /*slot=*/prompt_);
    at::Tensor out =
        at::empty({1, size_.channels, size_.frames, size_.height, size_.width}, at::kFloat);
    random.fill_normal(/*first_element=*/0,
                       {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
    return out;  // [1, C, T, H, W]
  }

  uint64_t seed_;
  int64_t prompt_;
  layout::LatentSize size_;
};

// What the rows depend on, apart from how they are cut into files.
std::string fingerprint_of(const config::Generate& g,
                           const layout::ModelFolder& model,
                           const std::vector<std::string>& prompts,
                           const SynthOptions& options) {
  Sha256 digest;
  for (const std::string& prompt : prompts) {
    digest.update(str(prompt, '\0'));
  }
  std::vector<Path> weights = {model.transformer, model.text_encoder};
  if (model.transformer_2) {
    weights.push_back(*model.transformer_2);
  }
  for (const Path& folder : weights) {
    digest.update(io::WeightFiles::open(folder).digest());
  }
  std::string steps;
  for (const int64_t step : *g.dmd_denoising_steps) {
    steps += str(step, ',');
  }
  digest.update(str(
      "synth ", *g.width, ' ', *g.height, ' ', *g.num_frames, ' ', *g.fps, ' ', *g.steps, ' ',
      *g.seed, ' ', steps, ' ', *g.guidance_scale, ' ', *g.guidance_scale_2, ' ',
      *g.guidance_rescale, ' ', *g.boundary_ratio, ' ', *g.flow_shift, ' ',
      config::name_of(*g.compat), ' ', config::name_of(*g.sigma_schedule), ' ',
      config::name_of(*g.sampler), ' ', config::name_of(*g.attention_backend), ' ', *g.vsa_sparsity,
      ' ', config::name_of(*g.topk_rule), ' ', config::name_of(*g.dit_precision), ' ',
      *g.negative_prompt, '\0', options.shard, '/', options.shards, ' ', options.rows_per_file));
  for (const std::string& lora : *g.lora) {
    digest.update(lora);
  }
  return digest.hex();
}

// The teacher: prompts in, final normalised latents out.
class Teacher {
 public:
  Teacher(const config::Generate& settings,
          const layout::ModelFolder& model,
          const std::vector<std::string>& prompts,
          const Watch& watch,
          const Note& on_note)
      : settings_(settings),
        model_(model),
        prompts_(prompts),
        watch_(watch),
        components_(settings, model, pipelines::component_options(settings, model, on_note)),
        tokenizer_(text::open_tokenizer(model.tokenizer)) {}

  // Normalised latents [1, C, T, H, W].
  at::Tensor latents(int64_t number) {
    SynthNoise noise(
        *settings_.seed, number,
        layout::latent_size(model_, *settings_.num_frames, *settings_.height, *settings_.width));
    return pipelines::denoise(
        settings_, components_,
        {.text = embeddings(number), .first_frame = at::Tensor(), .noise = noise}, watch_);
  }

  // Encoder output at the prompt's true length, [L, D] fp32.
  at::Tensor text(int64_t number) {
    const std::string& prompt = prompts_[static_cast<std::size_t>(number)];
    const std::string clean = *settings_.compat == config::Compat::kFastvideo
                                  ? text::prompt_strip(prompt)
                                  : text::prompt_clean(prompt);
    const int64_t length =
        text::encode_padded(*tokenizer_, clean, pipelines::text_length(model_)).length;
    return embeddings(number).prompt[0].narrow(0, 0, length).to(at::kFloat).cpu();
  }

 private:
  pipelines::TextEmbeddings embeddings(int64_t number) {
    const bool is_guided = pipelines::uses_guidance(settings_);
    if (!encoded_.contains(prompts_[static_cast<std::size_t>(number)])) {
      encode_from(number, is_guided);
    }
    return {.prompt = encoded_.at(prompts_[static_cast<std::size_t>(number)]),
            .negative = is_guided ? encoded_.at(*settings_.negative_prompt) : at::Tensor()};
  }

  void encode_from(int64_t number, bool is_guided) {
    const int64_t end =
        std::min<int64_t>(static_cast<int64_t>(prompts_.size()), number + kPromptsAtOnce);
    std::vector<std::string> texts(prompts_.begin() + number, prompts_.begin() + end);
    if (is_guided) {
      texts.push_back(*settings_.negative_prompt);
    }
    std::sort(texts.begin(), texts.end());
    texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
    encoded_.clear();
    pipelines::encode_texts(texts, components_, settings_, encoded_, watch_);
    components_.release_text_encoder();
  }

  const config::Generate& settings_;
  const layout::ModelFolder& model_;
  const std::vector<std::string>& prompts_;
  const Watch& watch_;
  pipelines::Components components_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  pipelines::EncodedTexts encoded_;
};

io::Row row_of(const config::Generate& settings,
               const std::string& prompt,
               int64_t number,
               const at::Tensor& text,
               const at::Tensor& latents) {
  io::Row row;
  row["id"] = str("prompt-", number);
  row["vae_latent"] = to_cell(latents);
  row["text_embedding"] = to_cell(text);
  row["file_name"] = str("prompt-", number);
  row["caption"] = prompt;
  row["media_type"] = std::string("video");
  row["width"] = *settings.width;
  row["height"] = *settings.height;
  row["num_frames"] = latents.size(1);
  row["duration_sec"] =
      static_cast<double>(*settings.num_frames) / static_cast<double>(*settings.fps);
  row["fps"] = static_cast<double>(*settings.fps);
  return row;
}

}  // namespace

RowsMade synthesize(const config::Generate& settings,
                    const layout::ModelFolder& model,
                    const std::vector<std::string>& prompts,
                    const SynthOptions& options,
                    const Watch& watch,
                    const Note& on_note) {
  const at::NoGradGuard no_gradients;
  const auto [first, last] =
      share_of(static_cast<int64_t>(prompts.size()), options.shard, options.shards);
  RowsMade made{
      .folder = options.output / "combined_parquet_dataset" / str("worker_", options.shard),
      .inputs = last - first};
  RowShard shard(made.folder, {.schema = io::RowSchema::kT2v,
                               .first_input = first,
                               .last_input = last,
                               .rows_per_file = options.rows_per_file,
                               .group_rows = std::min(kGroupRows, options.rows_per_file),
                               .fingerprint = fingerprint_of(settings, model, prompts, options)});
  std::optional<Teacher> teacher;  // nothing is loaded where nothing is left to do
  while (shard.next_input() < last) {
    watch.throw_if_stopped();
    const int64_t number = shard.next_input();
    if (!teacher) {
      teacher.emplace(settings, model, prompts, watch, on_note);
    }
    const at::Tensor latents =
        denormalise(teacher->latents(number)[0].to(at::kFloat).cpu(), model.vae_config);
    shard.add(row_of(settings, prompts[static_cast<std::size_t>(number)], number,
                     teacher->text(number), latents));
    watch.report("synth", number + 1 - first, last - first);
  }
  shard.finish();
  made.rows = shard.rows();
  made.rows_found = shard.rows_found();
  made.left_out = shard.left_out();
  return made;
}

}  // namespace fastwan::data
