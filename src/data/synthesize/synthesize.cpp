#include "data/synthesize/synthesize.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/rng.h"
#include "base/text.h"
#include "data/latents.h"
#include "data/rows.h"
#include "diffusion/noise.h"
#include "diffusion/sample_noise.h"
#include "models/layout/cost.h"
#include "models/layout/lora_keys.h"
#include "pipelines/component_options.h"
#include "pipelines/components.h"
#include "pipelines/denoise.h"
#include "pipelines/device.h"
#include "pipelines/embeddings.h"
#include "pipelines/memory_plan.h"
#include "text/prompt_clean.h"
#include "text/tokenizer.h"

namespace fastwan::data {
namespace {

constexpr int64_t kGroupRows = 8;
// A trajectory is K + 1 latents: a reader should not decode others beside the one that it wants.
constexpr int64_t kTrajectoryGroupRows = 1;
constexpr int64_t kPromptsAtOnce = 256;  // encoded together, so that encoder and teacher take turns
constexpr int64_t kMostClips = 64;
// One forward of one clip of the tiny teacher (288 tokens) takes 1.8 ms on an H200, which is the
// time of its launches: 64 of them together stay below this number. One clip of a Wan model at 480p
// (20,000 tokens and more) fills the device for half a second.
constexpr int64_t kTokensThatFill = 32768;

struct PromptRange {
  int64_t first = 0, count = 0;
};

class SynthNoise final : public diffusion::NoiseSource {
 public:
  SynthNoise(int64_t seed, PromptRange prompts, layout::LatentSize size)
      : seed_(static_cast<uint64_t>(seed)),
        slots_(static_cast<std::size_t>(prompts.count)),
        size_(size) {
    std::iota(slots_.begin(), slots_.end(), prompts.first);
  }

  at::Tensor initial() override { return draw(0); }
  at::Tensor renoise(int64_t step) override { return draw(step); }

 private:
  at::Tensor draw(int64_t step) const {
    const at::Tensor like = at::empty({static_cast<int64_t>(slots_.size()), size_.channels,
                                       size_.frames, size_.height, size_.width},
                                      at::kFloat);  // [B, C, T, H, W]
    return diffusion::noise_like(like, {.seed = seed_, .stream = Stream::kSynth, .step = step},
                                 slots_);
  }

  uint64_t seed_;
  std::vector<int64_t> slots_;  // the prompts' places in the whole list
  layout::LatentSize size_;
};

std::string digest_of(const std::vector<std::string>& texts) {
  Sha256 digest;
  for (const std::string& text : texts) {
    digest.update(str(text, '\0'));
  }
  return digest.hex();
}

std::string listed(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t number : numbers) {
    text += str(number, ',');
  }
  return text;
}

// Of the merged LoRA files their bytes and scales; where they lie does not matter.
std::string lora_digest(const std::vector<std::string>& loras) {
  std::vector<std::string> parts;
  for (const std::string& text : loras) {
    const layout::LoraChoice lora = layout::read_lora_choice(text);
    parts.push_back(str(sha256_files(lora.file, {".safetensors"}), ' ', lora.scale));
  }
  return digest_of(parts);
}

Dependencies dependencies(const config::Generate& g,
                          const layout::ModelFolder& model,
                          const std::vector<std::string>& prompts,
                          const SynthOptions& options) {
  const std::vector<std::string> weights = {".json", ".safetensors"};
  Dependencies out = {
      {"list of prompts", digest_of(prompts)},
      {"transformer", sha256_files(model.transformer, weights)},
      {"text encoder", sha256_files(model.text_encoder, weights)},
      {"tokenizer", sha256_files(model.tokenizer, {".json", ".model"})},
      // Nothing is decoded: of the VAE only the latents' statistics and sizes have a part.
      {"VAE config", sha256_files(model.vae, {".json"})},
      {"--lora", lora_digest(*g.lora)},
      {"--negative-prompt", digest_of({*g.negative_prompt})},
      {kShardName, str(options.shard, '/', options.shards)},
      {"--samples-per-file", str(options.rows_per_file)},
      {"--width", str(*g.width)},
      {"--height", str(*g.height)},
      {"--num-frames", str(*g.num_frames)},
      {"--fps", str(*g.fps)},
      {"--steps", str(*g.steps)},
      {"--seed", str(*g.seed)},
      {"--dmd-denoising-steps", listed(*g.dmd_denoising_steps)},
      {"--warp-denoising-step", *g.warp_denoising_step ? "true" : "false"},
      {"--guidance-scale", str(*g.guidance_scale)},
      {"--guidance-scale-2", str(*g.guidance_scale_2)},
      {"--guidance-rescale", str(*g.guidance_rescale)},
      {"--boundary-ratio", str(*g.boundary_ratio)},
      {"--flow-shift", str(*g.flow_shift)},
      {"--compat", config::name_of(*g.compat)},
      {"--sigma-schedule", config::name_of(*g.sigma_schedule)},
      {"--sampler", config::name_of(*g.sampler)},
      {"--attention-backend", config::name_of(*g.attention_backend)},
      {"--VSA-sparsity", str(*g.vsa_sparsity)},
      {"--topk-rule", config::name_of(*g.topk_rule)},
      {"--dit-precision", config::name_of(*g.dit_precision)},
      {"--text-encoder-precision", config::name_of(*g.text_encoder_precision)}};
  if (model.transformer_2) {
    out.emplace_back("transformer_2", sha256_files(*model.transformer_2, weights));
  }
  if (!options.ode_timesteps.empty()) {
    out.emplace_back("--ode-timesteps", listed(options.ode_timesteps));
  }
  return out;
}

std::vector<KeptState> kept_states(const config::Generate& settings,
                                   const std::vector<int64_t>& asked) {
  if (asked.empty()) {
    return {};
  }
  if (*settings.sampler == config::Sampler::kDmd) {
    throw InvalidInput(Code::kConflict,
                       "--ode-timesteps needs a sampler that follows the teacher's path: --sampler "
                       "unipc or euler. dmd adds fresh noise on the way");
  }
  return nearest_states(pipelines::noise_levels(settings), asked);
}

// The teacher: prompts in, normalised latents out.
class Teacher {
 public:
  Teacher(const config::Generate& settings,
          const layout::ModelFolder& model,
          const std::vector<std::string>& prompts,
          int64_t batch,  // 0: chosen here
          std::vector<KeptState> kept,
          const Watch& watch,
          const Note& on_note)
      : settings_(settings),
        model_(model),
        prompts_(prompts),
        kept_(std::move(kept)),
        watch_(watch),
        components_(settings, model, pipelines::component_options(settings, model, on_note)),
        tokenizer_(text::open_tokenizer(model.tokenizer)),
        size_(layout::latent_size(model, *settings.num_frames, *settings.height, *settings.width)),
        batch_(batch > 0 ? batch : fitting_batch(on_note)) {}

  int64_t batch() const { return batch_; }

  // Normalised latents [B, K + 1, C, T, H, W] fp32 of consecutive prompts, on the host: the kept
  // states, then the end.
  at::Tensor trajectories(PromptRange prompts) {
    SynthNoise noise(*settings_.seed, prompts, size_);
    std::vector<at::Tensor> texts;  // [1, L, D] each
    std::vector<std::string> names;
    for (int64_t number = prompts.first; number < prompts.first + prompts.count; ++number) {
      texts.push_back(encoded(number));
      names.push_back(str("prompt-", number, " (",
                          escape_control(prompts_[static_cast<std::size_t>(number)]), ")"));
    }
    const at::Tensor negative = pipelines::uses_guidance(settings_)
                                    ? encoded_.at(*settings_.negative_prompt)
                                    : at::Tensor();
    std::vector<at::Tensor> states;  // [B, C, T, H, W] each
    const auto keep = [&](int64_t step, const at::Tensor& x) {
      if (states.size() < kept_.size() && kept_[states.size()].step == step) {
        states.push_back(x.to(at::kFloat).cpu());
      }
    };
    const at::Tensor end =
        pipelines::denoise(settings_, components_,
                           {.text = {.prompt = at::cat(texts), .negative = negative},
                            .first_frame = at::Tensor(),
                            .noise = noise,
                            .names = names,
                            .on_state = keep},
                           watch_);
    states.push_back(end.to(at::kFloat).cpu());
    return at::stack(states, 1);
  }

  // Encoder output at the prompt's true length, [L, D] fp32.
  at::Tensor text(int64_t number) {
    const std::string& prompt = prompts_[static_cast<std::size_t>(number)];
    const std::string clean = *settings_.compat == config::Compat::kFastvideo
                                  ? text::prompt_strip(prompt)
                                  : text::prompt_clean(prompt);
    const int64_t length =
        text::encode_padded(*tokenizer_, clean, pipelines::text_length(model_)).length;
    return encoded(number)[0].narrow(0, 0, length).to(at::kFloat).cpu();
  }

 private:
  int64_t fitting_batch(const Note& on_note) const {
    const pipelines::ComponentOptions& options = components_.options();
    if (options.device.is_cpu()) {
      return 1;
    }
    const layout::WanDitConfig& dit = model_.transformer_config;
    const layout::TokenGrid grid = layout::token_grid(dit, size_);
    const int64_t weights =
        pipelines::weight_bytes(model_, options.is_gated, options.types).together();
    const int64_t batch = synth_batch(
        {.tokens = grid.num_tokens(),
         .clip_bytes = static_cast<int64_t>(layout::forward_memory(
             dit, grid, {},
             static_cast<int64_t>(c10::elementSize(options.types.transformer.compute)))),
         .spare_bytes = pipelines::free_memory_bytes(options.device) - weights});
    on_note(str("clips are sampled ", batch, " at a time; --batch says another number"));
    return batch;
  }

  const at::Tensor& encoded(int64_t number) {
    const std::string& prompt = prompts_[static_cast<std::size_t>(number)];
    if (!encoded_.contains(prompt)) {
      encode_from(number);
    }
    return encoded_.at(prompt);
  }

  // Of whole batches, so that none loses the texts of its first prompts here.
  void encode_from(int64_t number) {
    const int64_t count = (kPromptsAtOnce + batch_ - 1) / batch_ * batch_;
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(prompts_.size()), number + count);
    std::vector<std::string> texts(prompts_.begin() + number, prompts_.begin() + end);
    if (pipelines::uses_guidance(settings_)) {
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
  std::vector<KeptState> kept_;
  const Watch& watch_;
  pipelines::Components components_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  layout::LatentSize size_;
  int64_t batch_;
  pipelines::EncodedTexts encoded_;
};

// What rows of both schemas have.
io::Row row_of(const std::string& prompt, int64_t number, const at::Tensor& text) {
  io::Row row;
  row["id"] = str("prompt-", number);
  row["text_embedding"] = to_cell(text);
  row["file_name"] = str("prompt-", number);
  row["caption"] = prompt;
  row["media_type"] = std::string("video");
  return row;
}

void add_clip(io::Row& row, const config::Generate& settings, const at::Tensor& latents) {
  row["vae_latent"] = to_cell(latents);
  row["width"] = *settings.width;
  row["height"] = *settings.height;
  row["num_frames"] = latents.size(1);
  row["duration_sec"] =
      static_cast<double>(*settings.num_frames) / static_cast<double>(*settings.fps);
  row["fps"] = static_cast<double>(*settings.fps);
}

void add_trajectory(io::Row& row, const std::vector<KeptState>& kept, const at::Tensor& latents) {
  std::vector<double> timesteps;
  for (const KeptState& state : kept) {
    timesteps.push_back(state.timestep);
  }
  timesteps.push_back(0);
  row["trajectory_latents"] = to_cell(latents);
  row["trajectory_timesteps"] = to_cell(at::tensor(timesteps, at::kFloat));
}

}  // namespace

int64_t synth_batch(const SynthLoad& load) {
  const int64_t filling = (kTokensThatFill + load.tokens - 1) / std::max<int64_t>(1, load.tokens);
  const int64_t fitting = load.spare_bytes / 2 / std::max<int64_t>(1, load.clip_bytes);
  return std::clamp<int64_t>(std::min(filling, fitting), 1, kMostClips);
}

std::vector<KeptState> nearest_states(const std::vector<diffusion::NoiseLevel>& levels,
                                      const std::vector<int64_t>& asked) {
  const bool falls =
      std::adjacent_find(asked.begin(), asked.end(), std::less_equal<>()) == asked.end();
  if (asked.empty() || !falls || asked.front() > 1000 || asked.back() < 1) {
    throw InvalidInput(Code::kBadValue,
                       str("--ode-timesteps must be whole numbers that fall, each from 1 to 1000, "
                           "such as 1000,757,522; got ",
                           listed(asked)));
  }
  const auto timestep_of = [](const diffusion::NoiseLevel& level) { return 1000.0 * level.sigma; };
  std::vector<KeptState> kept;
  for (const int64_t timestep : asked) {
    const auto wanted = static_cast<double>(timestep);
    const auto nearest = std::min_element(levels.begin(), levels.end(), [&](auto& a, auto& b) {
      return std::abs(timestep_of(a) - wanted) < std::abs(timestep_of(b) - wanted);
    });
    const KeptState state{.step = nearest - levels.begin(), .timestep = timestep_of(*nearest)};
    if (!kept.empty() && kept.back().step == state.step) {
      throw InvalidInput(Code::kBadValue,
                         str("--ode-timesteps: the sampler's ", levels.size(),
                             " steps have one state, at timestep ", state.timestep,
                             ", that is nearest to two of those asked for: ", timestep,
                             " and the one before. Take more --steps, or other timesteps"));
    }
    kept.push_back(state);
  }
  return kept;
}

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
  const std::vector<KeptState> kept = kept_states(settings, options.ode_timesteps);
  const int64_t group_rows = kept.empty() ? kGroupRows : kTrajectoryGroupRows;
  RowShard shard(made.folder, {.schema = kept.empty() ? io::RowSchema::kT2v
                                                      : io::RowSchema::kOdeTrajectoryTextOnly,
                               .first_input = first,
                               .last_input = last,
                               .rows_per_file = options.rows_per_file,
                               .group_rows = std::min(group_rows, options.rows_per_file),
                               .depends_on = dependencies(settings, model, prompts, options)});
  std::optional<Teacher> teacher;  // nothing is loaded where nothing is left to do
  while (shard.next_input() < last) {
    watch.throw_if_stopped();
    const int64_t number = shard.next_input();
    if (!teacher) {
      teacher.emplace(settings, model, prompts, options.batch, kept, watch, on_note);
    }
    const int64_t count = std::min(teacher->batch(), last - number);
    const at::Tensor latents = teacher->trajectories({number, count});  // [B, K + 1, C, T, H, W]
    for (int64_t i = 0; i < count; ++i) {
      io::Row row = row_of(prompts[static_cast<std::size_t>(number + i)], number + i,
                           teacher->text(number + i));
      if (kept.empty()) {
        add_clip(row, settings, denormalise(latents[i][0], model.vae_config));
      } else {
        add_trajectory(row, kept, latents[i]);
      }
      shard.add(row);
    }
    watch.report("synth", number + count - first, last - first);
  }
  shard.finish();
  made.rows = shard.rows();
  made.rows_found = shard.rows_found();
  made.left_out = shard.left_out();
  return made;
}

}  // namespace fastwan::data
