#include "data/preprocess.h"

#include <algorithm>
#include <future>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <omp.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "data/rows.h"
#include "io/video_reader.h"
#include "models/umt5.h"
#include "models/wan_vae.h"
#include "text/prompt_clean.h"
#include "text/tokenizer.h"

namespace fastwan::data {
namespace {

constexpr int64_t kUsualTextLength = 512;  // where tokenizer_config.json names none
constexpr int64_t kMaxFrames = 121;
constexpr int64_t kLatentStride = 4;
constexpr int64_t kGroupRows = 8;

void check(const PreprocessOptions& options, const layout::ModelFolder& model) {
  if (options.schema == io::RowSchema::kTextOnly) {
    return;
  }
  const ClipShape& shape = options.rule.shape;
  if (shape.num_frames < 1 || shape.num_frames > kMaxFrames ||
      (shape.num_frames - 1) % kLatentStride != 0) {
    throw InvalidInput(Code::kBadValue, str("--num-frames must be 4k+1 and at most ", kMaxFrames,
                                            ", got ", shape.num_frames));
  }
  const int64_t multiple = model.size_multiple();
  for (const auto& [name, side] :
       {std::pair{"--max-height", shape.height}, {"--max-width", shape.width}}) {
    if (side < multiple || side % multiple != 0) {
      throw InvalidInput(
          Code::kBadValue,
          str(name, " must be a multiple of ", multiple, ", got ", side,
              ". Nearest: ", std::max(multiple, (side + multiple / 2) / multiple * multiple)));
    }
  }
}

// A list that is wrong is told before hours of work.
void refuse_repetitions(const std::vector<ClipInput>& clips) {
  for (const ClipInput& clip : clips) {
    if (!clip.repeats.empty()) {
      throw InvalidInput(Code::kBadDataset,
                         clip.repeats + ". Take one out, or leave it out by --on-bad-row skip");
    }
  }
}

// What the rows depend on, apart from the videos' own bytes.
Dependencies dependencies(const std::vector<ClipInput>& clips,
                          const layout::ModelFolder& model,
                          const PreprocessOptions& options) {
  Sha256 list;
  for (const ClipInput& clip : clips) {
    list.update(str(clip.id, '\0', clip.video.string(), '\0', clip.caption, '\0',
                    clip.fps.value_or(0), '\n'));
  }
  const ClipRule& rule = options.rule;
  Dependencies out = {{"list of inputs", list.hex()},
                      {"pipeline class", model.class_name},
                      {"text encoder", sha256_files(model.text_encoder, {".json", ".safetensors"})},
                      {"tokenizer", sha256_files(model.tokenizer, {".json", ".model"})},
                      {"--task", io::name_of(options.schema)},
                      {kShardName, str(options.shard, '/', options.shards)},
                      {"--samples-per-file", str(options.rows_per_file)},
                      {"--num-frames", str(rule.shape.num_frames)},
                      {"--max-height", str(rule.shape.height)},
                      {"--max-width", str(rule.shape.width)},
                      {"--train-fps", str(rule.shape.train_fps)},
                      {"--video-length-tolerance-range", str(rule.length_tolerance)},
                      {"--speed-factor", str(rule.speed_factor)},
                      {"--do-temporal-sample", rule.random_window ? "true" : "false"},
                      {"--drop-short-ratio", str(rule.drop_short_ratio)},
                      {"--seed", str(rule.seed)}};
  if (options.schema != io::RowSchema::kTextOnly) {
    out.emplace_back("VAE", sha256_files(model.vae, {".json", ".safetensors"}));
  }
  return out;
}

// Captions as the model hears them at inference.
class TextEncoder {
 public:
  TextEncoder(const layout::ModelFolder& model, at::Device device, Note on_note)
      : strips_only_(model.class_name == "WanDMDPipeline"),  // FastVideo's cleaning
        device_(device),
        max_length_(text::model_max_length(model.tokenizer, kUsualTextLength)),
        tokenizer_(text::open_tokenizer(model.tokenizer)),
        encoder_(models::load_umt5(model.text_encoder, {.device = device})),
        on_note_(std::move(on_note)) {}

  at::Tensor encode(const ClipInput& clip) const {  // [L, D] fp32
    const std::string clean =
        strips_only_ ? text::prompt_strip(clip.caption) : text::prompt_clean(clip.caption);
    text::TokenIds tokens = text::encode_padded(*tokenizer_, clean, max_length_);
    if (tokens.was_truncated) {
      on_note_(str(escape_control(clip.id), ": the caption is longer than the ", max_length_,
                   " tokens that the model reads; its end is left out"));
    }
    tokens.ids.resize(static_cast<std::size_t>(tokens.length));
    const at::Tensor ids = at::tensor(tokens.ids, at::kLong).unsqueeze(0).to(device_);  // [1, L]
    return encoder_->forward(ids).squeeze(0).to(at::kFloat).cpu();
  }

  at::Tensor padded(const at::Tensor& text) const {  // [L, D] -> [max, D]
    return at::constant_pad_nd(text, {0, 0, 0, max_length_ - text.size(0)});
  }

 private:
  bool strips_only_;
  at::Device device_;
  int64_t max_length_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::shared_ptr<models::Umt5> encoder_;
  Note on_note_;
};

struct Clip {
  at::Tensor frames;     // [F, 3, P, Q] bytes
  std::string left_out;  // why there are none
};

Clip read_clip(const ClipInput& input,
               int64_t number,
               const ClipRule& rule,
               const io::Ffmpeg& ffmpeg,
               const std::stop_token& stop) {
  if (!input.repeats.empty()) {
    throw InvalidInput(Code::kBadDataset, input.repeats);
  }
  if (trim(input.caption).empty()) {
    return {{}, "no caption"};
  }
  const io::VideoInfo info = io::probe_video(input.video, ffmpeg, stop);
  const FrameChoice choice =
      input.fps ? choose_frames(info.num_frames, *input.fps, rule, number)
                : choose_frames(info.num_frames, info.fps, rule, number, info.times);
  if (choice.frames.empty()) {
    return {{}, choice.left_out};
  }
  io::VideoReader reader(input.video, info, ffmpeg, stop);
  std::vector<at::Tensor> frames;
  std::vector<uint8_t> rgb;
  int64_t decoded = 0;  // frames so far; the last is in rgb
  for (const int64_t wanted : choice.frames) {
    while (decoded <= wanted) {
      if (!reader.read_frame(rgb)) {
        throw InvalidInput(Code::kBadMedia,
                           str(escape_control(input.video.string()), ": ends after ", decoded,
                               " frames, frame ", wanted, " of ", info.num_frames, " was wanted"));
      }
      ++decoded;
    }
    frames.push_back(fit_frame(rgb, info.size, rule.shape));
  }
  const at::Tensor all = at::stack(frames);
  if (all.max().item<int64_t>() == 0) {
    return {{}, "all black"};
  }
  return {all, ""};
}

// Reads clips in order, the next one while the caller works on the last.
class ClipReader {
 public:
  using Read = std::function<Clip(int64_t)>;
  ClipReader(Read read, int64_t end) : read_(std::move(read)), end_(end) {}

  Clip take(int64_t number) {
    if (!ahead_.valid()) {
      start(number);
    }
    std::future<Clip> now = std::move(ahead_);
    now.wait();
    if (number + 1 < end_) {
      start(number + 1);
    }
    return now.get();
  }

 private:
  void start(int64_t number) {
    ahead_ = std::async(std::launch::async, [this, number] {
      ::omp_set_num_threads(1);  // the cores belong to the encoders
      return read_(number);
    });
  }

  Read read_;
  int64_t end_;
  std::future<Clip> ahead_;
};

// [1, 3, F, P, Q] -> posterior mean [C, T, H, W] fp32 on the host.
at::Tensor latents_of(models::WanVae& vae, const at::Tensor& video, const ClipInput& input) {
  const at::Tensor mean = vae.encode(video).mean.to(at::kFloat).cpu().squeeze(0);
  if (!at::isfinite(mean).all().item<bool>()) {
    throw InvalidInput(Code::kNonFinite,
                       str(escape_control(input.video.string()), ": the VAE gave NaN or infinity"));
  }
  return mean;
}

// The first frame, then grey ones: what an image-to-video model is given. Normalised.
at::Tensor first_frame_latent(models::WanVae& vae,
                              const at::Tensor& video,
                              const ClipInput& input) {
  const at::Tensor first = video.narrow(2, 0, 1);
  const at::Tensor rest = at::zeros_like(video.narrow(2, 1, video.size(2) - 1));
  const at::Tensor latents = latents_of(vae, at::cat({first, rest}, 2), input);
  return vae.normalise(latents.unsqueeze(0)).squeeze(0);
}

io::Row text_row(const ClipInput& input, const at::Tensor& text) {
  io::Row row;
  row["id"] = input.id;
  row["caption"] = input.caption;
  row["text_embedding"] = to_cell(text);
  return row;
}

io::Row clip_row(const ClipInput& input,
                 const at::Tensor& text,
                 const at::Tensor& latents,
                 const ClipShape& shape,
                 int64_t frames) {
  io::Row row = text_row(input, text);
  row["vae_latent"] = to_cell(latents);
  row["file_name"] = input.video.filename().string();
  row["media_type"] = std::string("video");
  row["width"] = shape.width;
  row["height"] = shape.height;
  row["num_frames"] = latents.size(1);
  row["duration_sec"] = static_cast<double>(frames) / shape.train_fps;
  row["fps"] = shape.train_fps;
  return row;
}

// Makes rows of one schema, one at a time.
class RowMaker {
 public:
  RowMaker(const std::vector<ClipInput>& clips,
           const layout::ModelFolder& model,
           const PreprocessOptions& options,
           const std::optional<io::Ffmpeg>& ffmpeg,  // absent: there are no clips to read
           int64_t last_input,
           const Watch& watch,
           const Note& on_note)
      : clips_(clips), options_(options), text_(model, options.device, on_note) {
    if (!ffmpeg) {
      return;
    }
    vae_ = models::load_wan_vae(model.vae,
                                {.device = options.device, .parts = models::VaeParts::kEncoder});
    reader_.emplace(
        [this, ffmpeg = *ffmpeg, stop = watch.stop](int64_t number) {
          return read_clip(clips_[static_cast<std::size_t>(number)], number, options_.rule, ffmpeg,
                           stop);
        },
        last_input);
  }

  struct Result {
    io::Row row;
    std::string left_out;
  };
  Result make(int64_t number) {
    const ClipInput& input = clips_[static_cast<std::size_t>(number)];
    if (!reader_) {
      return {text_row(input, text_.padded(text_.encode(input))), ""};
    }
    const Clip clip = reader_->take(number);
    if (!clip.left_out.empty()) {
      return {{}, clip.left_out};
    }
    const at::Tensor video = to_video(clip.frames).to(options_.device);
    io::Row row = clip_row(input, text_.encode(input), latents_of(*vae_, video, input),
                           options_.rule.shape, clip.frames.size(0));
    if (options_.schema == io::RowSchema::kI2v) {
      row["first_frame_latent"] = to_cell(first_frame_latent(*vae_, video, input));
      row["pil_image"] = to_cell(clip.frames[0].permute({1, 2, 0}));
    }
    return {std::move(row), ""};
  }

 private:
  const std::vector<ClipInput>& clips_;
  const PreprocessOptions& options_;
  TextEncoder text_;
  std::shared_ptr<models::WanVae> vae_;
  std::optional<ClipReader> reader_;
};

// Faults of one input; all others end the run.
bool is_of_the_row(const Failure& error) {
  return error.code() == Code::kBadMedia || error.code() == Code::kBadValue ||
         error.code() == Code::kNotFound || error.code() == Code::kNonFinite ||
         error.code() == Code::kBadDataset;
}

}  // namespace

RowsMade preprocess(const std::vector<ClipInput>& clips,
                    const layout::ModelFolder& model,
                    const PreprocessOptions& options,
                    const std::vector<Path>& venvs,
                    const Watch& watch,
                    const Note& on_note) {
  const at::NoGradGuard no_gradients;
  check(options, model);
  if (!options.skips_bad_rows) {
    refuse_repetitions(clips);
  }
  const auto [first, last] =
      share_of(static_cast<int64_t>(clips.size()), options.shard, options.shards);
  RowsMade made{
      .folder = options.output / "combined_parquet_dataset" / str("worker_", options.shard),
      .inputs = last - first};
  std::optional<io::Ffmpeg> ffmpeg;  // looked for before a folder is made and a model is loaded
  if (options.schema != io::RowSchema::kTextOnly) {
    ffmpeg = io::open_ffmpeg(venvs);
  }
  RowShard shard(made.folder, {.schema = options.schema,
                               .first_input = first,
                               .last_input = last,
                               .rows_per_file = options.rows_per_file,
                               .group_rows = std::min(kGroupRows, options.rows_per_file),
                               .depends_on = dependencies(clips, model, options)});
  std::optional<RowMaker> maker;  // nothing is loaded where nothing is left to do
  int64_t bad_rows = 0;
  while (shard.next_input() < last) {
    watch.throw_if_stopped();
    const int64_t number = shard.next_input();
    if (!maker) {
      watch.report("load", 0, 1);
      maker.emplace(clips, model, options, ffmpeg, last, watch, on_note);
      watch.report("load", 1, 1);
    }
    try {
      const RowMaker::Result result = maker->make(number);
      result.left_out.empty() ? shard.add(result.row) : shard.leave_out(result.left_out);
    } catch (const Failure& error) {
      if (!options.skips_bad_rows || !is_of_the_row(error)) {
        throw;
      }
      on_note(str("skipped: ", error.what()));
      if (++bad_rows == options.max_bad_rows) {
        throw InvalidInput(
            Code::kBadDataset,
            str(bad_rows, " bad rows, as many as --max-bad-rows allows; the last: ", error.what()));
      }
      shard.leave_out(info(error.code()).name);
    }
    watch.report("preprocess", number + 1 - first, last - first);
  }
  shard.finish();
  made.rows = shard.rows();
  made.rows_found = shard.rows_found();
  made.left_out = shard.left_out();
  return made;
}

}  // namespace fastwan::data
