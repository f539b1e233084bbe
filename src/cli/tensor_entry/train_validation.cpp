#include "cli/tensor_entry/train_validation.h"

#include <chrono>
#include <optional>
#include <utility>

#include <ATen/Parallel.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "config/presets.h"
#include "config/resolve.h"
#include "eval/video_statistics.h"
#include "io/media.h"
#include "training/role.h"

namespace fastwan::cli {
namespace {

using config::Origin;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int64_t kManySteps = 50;  // of a model that is not distilled, where the recipe says none
constexpr int64_t kSheetColumns = 4, kSheetRows = 2;

// FastVideo's validation list: {"data": [{"caption": ...}, ...]}. Sizes are those of training, so
// no other key is read.
std::vector<std::string> read_captions(const Path& file) {
  const Json document = read_json_file(file.string());
  const auto entries = json_get<std::vector<Json>>(document, "data", file.string());
  std::vector<std::string> captions;
  for (const Json& entry : entries) {
    captions.push_back(json_get<std::string>(entry, "caption", file.string()));
  }
  if (captions.empty()) {
    throw InvalidInput(Code::kBadValue, str("callbacks.validation.dataset_file ", file.string(),
                                            " holds no captions"));
  }
  return captions;
}

// An own preset of the model knows its rate of frames.
std::optional<int64_t> fps_of(const layout::ModelFolder& model) {
  const Path file = model.folder / "fastwan.json";
  if (!std::filesystem::exists(file)) {
    return std::nullopt;
  }
  return config::preset_from_json(read_json_file(file.string()), file.string()).fps;
}

std::vector<int64_t> few_step_timesteps(const config::Recipe& recipe) {
  const std::vector<int64_t>& own = recipe.callbacks.validation.sampling_timesteps;
  return own.empty() ? recipe.method.dmd_denoising_steps : own;
}

// What all videos share, as `fastwan generate` would settle it for the exported student.
config::Generate settings_of(const TrainContext& context,
                             const layout::ModelFolder& student,
                             const TrainData& data) {
  const config::Recipe& recipe = context.recipe;
  const config::Validation& wanted = recipe.callbacks.validation;
  const layout::WanVaeConfig& vae = data.folder.vae_config;
  const auto& latent = data.latent_shape;  // [C, T, H, W]
  config::Generate g;
  const auto set = [](auto& setting, auto value) {
    setting.set(std::move(value), Origin::kConfigFile);
  };
  set(g.width, latent[3] * vae.scale_factor_spatial);
  set(g.height, latent[2] * vae.scale_factor_spatial);
  set(g.num_frames,
      wanted.num_frames > 0 ? wanted.num_frames : 1 + (latent[1] - 1) * vae.scale_factor_temporal);
  if (const auto fps = fps_of(student)) {
    set(g.fps, *fps);
  }
  set(g.flow_shift, recipe.pipeline.flow_shift);
  set(g.seed, recipe.training.data.seed);
  set(g.rng, config::Rng::kPhilox);
  set(g.device, context.device.str());
  set(g.threads, static_cast<int64_t>(at::get_num_threads()));  // another number: other bits
  set(g.offload, config::Offload::kNone);
  set(g.attention_backend, config::AttentionBackend::kDense);  // unused: the student has its own
  set(g.dit_precision,
      compute_type(recipe) == at::kBFloat16 ? config::Precision::kBf16 : config::Precision::kFp32);
  if (config::is_few_step(recipe.method.kind)) {
    set(g.sampler, config::Sampler::kDmd);
    set(g.dmd_denoising_steps, few_step_timesteps(recipe));
    set(g.warp_denoising_step, recipe.method.warp_denoising_step);
  } else {
    set(g.sampler, config::Sampler::kUnipc);
    set(g.guidance_scale, wanted.guidance_scale);
    set(g.negative_prompt, recipe.pipeline.negative_prompt);
  }
  return g;
}

config::ModelFacts facts_of(const TrainContext& context, const TrainData& data) {
  const bool is_few_step = config::is_few_step(context.recipe.method.kind);
  return {.class_name = is_few_step ? "WanDMDPipeline" : "WanPipeline",
          .vae_z = data.folder.vae_config.z_dim,
          .size_multiple = data.folder.size_multiple(),
          .frames_per_latent = data.folder.vae_config.scale_factor_temporal};
}

bool has_ffmpeg(const TrainContext& context) {
  try {
    io::open_ffmpeg(context.media_roots);
    return true;
  } catch (const IoError& error) {
    context.on_note(str("validation writes frames as .safetensors: ", error.what()));
    return false;
  }
}

}  // namespace

Validation::Validation(const TrainContext& context,
                       const layout::ModelFolder& student,
                       const TrainData& data)
    : context_(context),
      folder_(Path(context.recipe.training.checkpoint.output_dir) / "validation"),
      model_(data.folder) {
  const config::Validation& wanted = context.recipe.callbacks.validation;
  prompts_ = wanted.dataset_file.empty() ? wanted.prompts : read_captions(wanted.dataset_file);
  for (const std::string& prompt : prompts_) {
    data.tokenizer->encode(prompt);  // a text that is none is refused now
  }
  io::WeightFiles::open(model_.vae);  // whole, and of its format
  if (!has_ffmpeg(context)) {
    extension_ = ".safetensors";
  }
  const config::ModelFacts facts = facts_of(context, data);
  std::vector<int64_t> counts = wanted.sampling_steps;
  const config::Generate shared = settings_of(context, student, data);
  if (*shared.sampler == config::Sampler::kDmd) {
    if (wanted.guidance_scale != 1) {  // FastVideo's runs give one, and use none either
      context.on_note("callbacks.validation.guidance_scale has no effect on a few-step student");
    }
    counts = {static_cast<int64_t>(shared.dmd_denoising_steps->size())};
  } else if (counts.empty()) {
    counts = {kManySteps};
  }
  for (const int64_t count : counts) {
    config::Generate settings = shared;
    settings.steps.set(count, Origin::kConfigFile);
    config::resolve(settings, facts, std::nullopt);
    add_sampling(std::move(settings));
  }
}

void Validation::add_sampling(config::Generate settings) {
  auto sampling = std::make_unique<Sampling>();
  sampling->settings = std::move(settings);
  sampling->videos = std::make_unique<pipelines::TextToVideo>(
      sampling->settings, model_, context_.media_roots, std::vector<Path>{"video" + extension_},
      context_.on_note);
  sampling->videos->expect_prompts(prompts_);
  samplings_.push_back(std::move(sampling));
}

void Validation::encode_prompts() {
  for (const auto& sampling : samplings_) {
    sampling->videos->encode_prompts({.stop = context_.watch.stop, .on_progress = {}});
  }
}

void Validation::lend(std::shared_ptr<training::Network> student, ValidationExtras extras) {
  student_ = student;
  extras_ = std::move(extras);
  for (const auto& sampling : samplings_) {
    sampling->videos->lend([student](const at::Tensor& latents, const at::Tensor& timestep,
                                     const at::Tensor& encoded_text) {
      return student->velocity(latents, timestep, encoded_text);
    });
  }
}

bool Validation::is_due(int64_t step) const {
  const config::Validation& wanted = context_.recipe.callbacks.validation;
  return step == 0 ? wanted.run_at_start : step % wanted.every_steps == 0;
}

bool Validation::is_made(int64_t step) const {
  return std::filesystem::exists(list_of(step));
}

Path Validation::list_of(int64_t step) const {
  return folder_ / str("step_", step) / "videos.json";
}

pipelines::VideoRequest Validation::request_of(int64_t step, const std::string& name) const {
  pipelines::VideoRequest request;
  if (context_.mesh.world->rank() == 0) {
    const Path folder = folder_ / str("step_", step);
    std::filesystem::create_directories(folder);
    request.video = folder / (name + extension_);
    request.contact_sheet = folder / (name + ".png");
    request.sheet_columns = kSheetColumns;
    request.sheet_rows = kSheetRows;
  }
  return request;
}

void Validation::show_previews(int64_t step, Made& made) const {
  if (!extras_.previews || context_.mesh.world->rank() != 0) {
    return;
  }
  for (const auto& [name, latents] : extras_.previews()) {
    const Json facts = {{"training_step", step}};
    pipelines::VideoRequest request = request_of(step, name);
    request.metadata = facts.dump();
    samplings_.front()->videos->show(latents.narrow(0, 0, 1), request,
                                     {.stop = context_.watch.stop, .on_progress = {}});
    Json entry = {{"file", name + extension_}};
    entry.update(facts);
    made.videos.push_back(std::move(entry));
  }
}

Watch Validation::watch() const {
  return {.stop = context_.mesh.world->size() == 1 ? context_.watch.stop : std::stop_token(),
          .on_progress = {}};
}

void Validation::make_one(const Sampling& sampling,
                          int64_t step,
                          std::size_t prompt,
                          Made& made) const {
  const int64_t seed = *sampling.settings.seed + static_cast<int64_t>(prompt);
  const std::string name = str("validation_step_", step, "_inference_steps_",
                               *sampling.settings.steps, "_video_", prompt);
  const Json facts = {{"prompt", prompts_[prompt]}, {"seed", seed}, {"training_step", step}};
  eval::VideoStatistics statistics;
  pipelines::VideoRequest request = request_of(step, name);
  request.prompt = prompts_[prompt];
  request.seed = seed;
  request.metadata = facts.dump();
  request.on_frames = [&statistics](const at::Tensor& frames) { statistics.add(frames); };
  const pipelines::VideoReport report = sampling.videos->make(request, watch());
  for (const auto& [stage, seconds] : report.stage_seconds) {
    if (stage == "denoise" || stage == "decode") {
      made.metrics["validation_" + stage + "_seconds"] += seconds;
    }
  }
  Json entry = {{"file", name + extension_}};
  entry.update(facts);
  entry["num_inference_steps"] = *sampling.settings.steps;
  entry["latents_sha256"] = report.latents_sha256;
  entry["statistics"] = statistics.values();
  made.videos.push_back(std::move(entry));
  for (const auto& [figure, value] : statistics.values()) {
    made.statistics[figure].push_back(value);
  }
}

void Validation::attempt(int64_t step,
                         const std::string& what,
                         const std::function<void()>& work) const {
  try {
    work();
  } catch (const Stopped&) {
    throw;
  } catch (const std::exception& error) {
    context_.on_note(str("validation of step ", step, ": ", what, " failed: ", error.what()));
  }
}

void Validation::measure_loss(Made& made) const {
  const Clock::time_point start = Clock::now();
  made.metrics.merge(extras_.loss->of(
      [this](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor& text) {
        return student_->velocity(x, timestep, text);
      },
      watch()));
  made.metrics["validation_loss_seconds"] = seconds_since(start);
}

void Validation::make_videos(int64_t step, Made& made) const {
  for (const auto& sampling : samplings_) {
    try {
      for (std::size_t i = 0; i < prompts_.size(); ++i) {
        attempt(step, str("video ", i), [&] { make_one(*sampling, step, i, made); });
      }
      if (sampling == samplings_.front()) {  // while its decoder is there
        attempt(step, "predictions", [&] { show_previews(step, made); });
      }
    } catch (const Stopped&) {
      sampling->videos->release();
      throw;
    }
    sampling->videos->release();
  }
  if (!made.videos.empty() && context_.mesh.world->rank() == 0) {
    attempt(step, "videos.json", [&] { write_durably(list_of(step), dump_json(made.videos)); });
  }
  for (const auto& [figure, values] : made.statistics) {
    made.metrics["validation_video/" + figure] = training::mean_of(values);
  }
}

training::Metrics Validation::make(int64_t step, training::Ema* ema) {
  const Clock::time_point start = Clock::now();
  std::optional<training::WithEma> average;
  if (ema != nullptr && context_.recipe.callbacks.ema.use_for_validation) {
    average.emplace(*ema);
  }
  Made made;
  try {
    if (extras_.loss) {
      attempt(step, "validation_loss", [&] { measure_loss(made); });
    }
    make_videos(step, made);
  } catch (const Stopped&) {  // the trainer hears of it too, and saves
    return {};
  }
  if (!made.metrics.empty()) {
    made.metrics["validation_seconds"] = seconds_since(start);
  }
  return made.metrics;
}

std::unique_ptr<Validation> make_validation(const TrainContext& context,
                                            const layout::ModelFolder& student,
                                            const TrainData& data) {
  if (context.recipe.callbacks.validation.every_steps == 0) {
    return nullptr;
  }
  return std::make_unique<Validation>(context, student, data);
}

}  // namespace fastwan::cli
