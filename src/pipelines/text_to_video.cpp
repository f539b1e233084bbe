#include "pipelines/text_to_video.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>

#include <ATen/core/grad_mode.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "pipelines/component_options.h"
#include "pipelines/components.h"
#include "pipelines/decode.h"
#include "pipelines/denoise.h"
#include "pipelines/embeddings.h"
#include "pipelines/first_frame.h"
#include "pipelines/noise_file.h"
#include "pipelines/stage_clock.h"
#include "pipelines/tensor_file.h"

namespace fastwan::pipelines {
namespace {

using Note = std::function<void(const std::string&)>;

bool is_tensor_file(const Path& file) {
  return to_lower(file.extension().string()) == ".safetensors";
}

bool needs_ffmpeg(const Path& file) {
  return !file.empty() && !is_tensor_file(file) && to_lower(file.extension().string()) != ".png";
}

std::optional<io::Ffmpeg> open_if_needed(const config::Generate& settings,
                                         const std::vector<Path>& venvs,
                                         const std::vector<Path>& outputs) {
  if (settings.image.is_set) {
    return io::open_ffmpeg(venvs);
  }
  if (std::none_of(outputs.begin(), outputs.end(), needs_ffmpeg)) {
    return std::nullopt;
  }
  try {
    return io::open_ffmpeg(venvs);
  } catch (const IoError& error) {
    throw IoError(error.code(), str(error.what(),
                                    ", or write frames as PNG, which needs none (an output name "
                                    "ending in .png)"));
  }
}

std::string digest_of(const at::Tensor& latents) {
  const at::Tensor dense = latents.to(at::kFloat).cpu().contiguous();
  Sha256 digest;
  digest.update({static_cast<const std::byte*>(dense.const_data_ptr()), dense.nbytes()});
  return digest.hex();
}

io::Fit fit_of(config::Fit fit) {
  switch (fit) {
    case config::Fit::kPad:
      return io::Fit::kPad;
    case config::Fit::kStretch:
      return io::Fit::kStretch;
    default:
      return io::Fit::kCrop;
  }
}

}  // namespace

struct TextToVideo::Impl {
  Impl(const config::Generate& given,
       const layout::ModelFolder& folder,
       std::optional<io::Ffmpeg> program,
       Note note)
      : settings(given),
        model(folder),
        ffmpeg(std::move(program)),
        on_note(std::move(note)),
        components(given, folder, component_options(given, folder, on_note)) {}

  TextEmbeddings text_of(const std::string& prompt, const Watch& watch);
  void encode_missing(const Watch& watch, const std::string* prompt = nullptr);
  at::Tensor first_frame(const Watch& watch);
  std::unique_ptr<diffusion::NoiseSource> noise_of(int64_t seed) const;
  at::Tensor latents_of(const VideoRequest& request, StageClock& clock, const Watch& watch);
  // Files of what `latents_of` gives.
  using LatentsOf = std::function<at::Tensor(StageClock& clock, const Watch& watch)>;
  VideoReport finish(const VideoRequest& request, const Watch& watch, const LatentsOf& latents_of);
  at::Tensor given_latents() const;
  void write_frames(const VideoRequest& request,
                    const at::Tensor& latents,
                    StageClock& clock,
                    const Watch& watch);

  layout::LatentSize latent() const {
    return layout::latent_size(model, *settings.num_frames, *settings.height, *settings.width);
  }
  // Pixel frames of latents [1, C, T, H, W].
  int64_t num_frames_of(const at::Tensor& latents) const {
    return 1 + (latents.size(2) - 1) * model.vae_config.scale_factor_temporal;
  }
  // The type in which the sampler holds its latents.
  at::ScalarType latent_type() const {
    return *settings.sampler == config::Sampler::kDmd ? components.options().types.state
                                                      : at::kFloat;
  }

  const config::Generate& settings;
  const layout::ModelFolder& model;
  std::optional<io::Ffmpeg> ffmpeg;
  Note on_note;
  Components components;
  std::vector<std::string> prompts;
  EncodedTexts encoded;
  std::optional<TextEmbeddings> given_text;
  at::Tensor first_frame_latent;
};

TextEmbeddings TextToVideo::Impl::text_of(const std::string& prompt, const Watch& watch) {
  const bool is_guided = uses_guidance(settings);
  if (settings.prompt_embeds.is_set) {
    if (!given_text) {
      given_text = read_embeddings(*settings.prompt_embeds, text_length(model),
                                   model.transformer_config.text_dim, is_guided);
    }
    return *given_text;
  }
  encode_missing(watch, &prompt);
  return {.prompt = encoded.at(prompt),
          .negative = is_guided ? encoded.at(*settings.negative_prompt) : at::Tensor()};
}

// The expected prompts, one more where given, and the negative one where guidance needs it.
void TextToVideo::Impl::encode_missing(const Watch& watch, const std::string* prompt) {
  std::set<std::string> texts(prompts.begin(), prompts.end());
  if (prompt != nullptr) {
    texts.insert(*prompt);
  }
  if (uses_guidance(settings)) {
    texts.insert(*settings.negative_prompt);
  }
  std::vector<std::string> missing;
  std::copy_if(texts.begin(), texts.end(), std::back_inserter(missing),
               [this](const std::string& text) { return !encoded.contains(text); });
  if (!missing.empty()) {
    encode_texts(missing, components, settings, encoded, watch);
    components.release_text_encoder();
  }
}

at::Tensor TextToVideo::Impl::first_frame(const Watch& watch) {
  if (!settings.image.is_set || first_frame_latent.defined()) {
    return first_frame_latent;
  }
  const io::Image image =
      io::fit_image(io::read_image(*settings.image, *ffmpeg, watch.stop),
                    {.width = *settings.width, .height = *settings.height}, fit_of(*settings.fit));
  first_frame_latent =
      encode_first_frame(components.vae(watch), image, components.options().device);
  return first_frame_latent;
}

std::unique_ptr<diffusion::NoiseSource> TextToVideo::Impl::noise_of(int64_t seed) const {
  const layout::LatentSize size = latent();
  const diffusion::NoiseShape shape{size.channels, size.frames, size.height, size.width};
  std::unique_ptr<diffusion::NoiseSource> drawn;
  if (*settings.rng == config::Rng::kPhilox) {
    drawn = diffusion::philox_noise(seed, shape);
  } else {
    // FastVideo's few-step loop draws frame by frame.
    const auto order = *settings.sampler == config::Sampler::kDmd
                           ? diffusion::DrawOrder::kFramesFirst
                           : diffusion::DrawOrder::kChannelsFirst;
    drawn =
        diffusion::torch_noise(seed, shape, order, components.options().types.transformer.compute);
  }
  return settings.noise.is_set ? noise_from_file(*settings.noise, shape, std::move(drawn), on_note)
                               : std::move(drawn);
}

at::Tensor TextToVideo::Impl::given_latents() const {
  const auto file = io::SafetensorsFile::open(*settings.load_latents);
  const at::Tensor latents =
      read_named(file, "latents", str("1 ", model.vae_config.z_dim, " T H W"));
  return latents.to(components.options().device, latent_type());
}

at::Tensor TextToVideo::Impl::latents_of(const VideoRequest& request,
                                         StageClock& clock,
                                         const Watch& watch) {
  clock.enter("text");
  const TextEmbeddings text = text_of(request.prompt, watch);
  if (!request.embeds.empty()) {
    save_embeddings(request.embeds, text);
  }
  if (settings.image.is_set) {
    clock.enter("image");
  }
  const at::Tensor frame = first_frame(watch);
  clock.enter("denoise");
  const auto noise = noise_of(request.seed);
  return denoise(settings, components, {.text = text, .first_frame = frame, .noise = *noise},
                 watch);
}

void TextToVideo::Impl::write_frames(const VideoRequest& request,
                                     const at::Tensor& latents,
                                     StageClock& clock,
                                     const Watch& watch) {
  const layout::WanVaeConfig& vae = model.vae_config;
  const io::FrameSize size{.width = latents.size(4) * vae.scale_factor_spatial,
                           .height = latents.size(3) * vae.scale_factor_spatial};
  const bool as_tensors = is_tensor_file(request.video);
  FrameTargets targets;
  targets.on_frames = request.on_frames;
  targets.keep = as_tensors || !request.frames.empty();
  if (!request.contact_sheet.empty()) {
    targets.sheet.emplace(io::ContactSheetFormat{.columns = request.sheet_columns,
                                                 .rows = request.sheet_rows,
                                                 .frame = size,
                                                 .num_frames = num_frames_of(latents),
                                                 .fps = *settings.fps});
  }
  if (!request.video.empty() && !as_tensors) {
    targets.video = io::open_video(
        request.video,
        {.size = size, .fps = *settings.fps, .crf = *settings.crf, .metadata = request.metadata},
        ffmpeg ? &*ffmpeg : nullptr, watch.stop);
  }
  clock.enter("decode");
  decode(latents, components, targets, watch);
  clock.enter("encode");
  watch.report("encode", 0, 1);
  for (const Path& file : {request.frames, as_tensors ? request.video : Path()}) {
    if (!file.empty()) {
      save_frames(file, targets.kept);
    }
  }
  if (targets.sheet) {
    targets.sheet->write(request.contact_sheet, request.metadata);
  }
  if (targets.video) {
    targets.video->finish();
  }
  watch.report("encode", 1, 1);
}

TextToVideo::TextToVideo(const config::Generate& settings,
                         const layout::ModelFolder& model,
                         const std::vector<Path>& venvs,
                         const std::vector<Path>& outputs,
                         std::function<void(const std::string&)> on_note)
    : impl_(std::make_unique<Impl>(
          settings, model, open_if_needed(settings, venvs, outputs), std::move(on_note))) {}

TextToVideo::~TextToVideo() = default;

void TextToVideo::lend(LentTransformer transformer) {
  impl_->components.lend(std::move(transformer));
}

void TextToVideo::encode_prompts(const Watch& watch) {
  const at::NoGradGuard no_gradients;
  impl_->encode_missing(watch);
}

void TextToVideo::release() {
  impl_->components.release();
}

void TextToVideo::expect_prompts(const std::vector<std::string>& prompts) {
  impl_->prompts = prompts;
}

VideoReport TextToVideo::make(const VideoRequest& request, const Watch& watch) {
  return impl_->finish(request, watch, [&](StageClock& clock, const Watch& timed) {
    return impl_->settings.load_latents.is_set ? impl_->given_latents()
                                               : impl_->latents_of(request, clock, timed);
  });
}

VideoReport TextToVideo::show(const at::Tensor& latents,
                              const VideoRequest& request,
                              const Watch& watch) {
  return impl_->finish(request, watch, [&](StageClock& /*clock*/, const Watch& /*timed*/) {
    return latents.to(impl_->components.options().device, impl_->latent_type());
  });
}

VideoReport TextToVideo::Impl::finish(const VideoRequest& request,
                                      const Watch& watch,
                                      const LatentsOf& latents_of) {
  const at::NoGradGuard no_gradients;
  StageClock clock;
  const Watch timed{watch.stop, [&](const Progress& now) {
                      if (now.stage == "load") {
                        now.step == 0 ? clock.enter("load") : clock.go_back();
                      }
                      watch.report(now.stage.c_str(), now.step, now.total);
                    }};
  const at::Tensor latents = latents_of(clock, timed);
  if (!request.latents.empty()) {
    models::save_tensors(request.latents, {{"latents", latents.to(at::kFloat)}});
  }
  if (!request.video.empty() || !request.frames.empty() || !request.contact_sheet.empty()) {
    write_frames(request, latents, clock, timed);
  }
  std::vector<Path> files;
  if (!request.video.empty()) {
    files = io::video_files(request.video, num_frames_of(latents));
  }
  return {.files = std::move(files),
          .latents_sha256 = digest_of(latents),
          .stage_seconds = clock.seconds()};
}

std::string TextToVideo::device() const {
  return impl_->components.options().device.str();
}

std::string TextToVideo::offload() const {
  return config::name_of(impl_->components.options().offload);
}

std::string TextToVideo::ffmpeg_version() const {
  return impl_->ffmpeg ? impl_->ffmpeg->version : "";
}

}  // namespace fastwan::pipelines
