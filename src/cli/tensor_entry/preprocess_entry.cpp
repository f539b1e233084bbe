// The other side of preprocess_call.h.
#include <thread>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/preprocess_call.h"
#include "data/latents.h"
#include "data/preprocess.h"
#include "data/rows.h"
#include "data/synthesize/synthesize.h"
#include "io/video.h"
#include "models/wan_vae.h"
#include "pipelines/decode.h"
#include "pipelines/device.h"

namespace fastwan::cli {
namespace {

RowsReport report_of(const data::RowsMade& made) {
  return {.folder = made.folder,
          .inputs = made.inputs,
          .rows = made.rows,
          .rows_found = made.rows_found,
          .left_out = made.left_out};
}

io::RowSchema schema_of(const std::string& task) {
  if (task == "text_only") {
    return io::RowSchema::kTextOnly;
  }
  return task == "i2v" ? io::RowSchema::kI2v : io::RowSchema::kT2v;
}

std::vector<data::ClipInput> read_inputs(const PreprocessSettings& settings) {
  if (settings.dataset_type == "merged") {
    return data::read_merged(settings.dataset_path);
  }
  if (settings.dataset_type == "json") {
    return data::read_json(settings.dataset_path);
  }
  return settings.dataset_type == "jsonl" ? data::read_jsonl(settings.dataset_path)
                                          : data::read_prompts(settings.dataset_path);
}

RowsReport preprocess(const PreprocessCall& call) {
  const PreprocessSettings& s = call.settings;
  const int64_t threads =
      s.threads > 0 ? s.threads : static_cast<int64_t>(std::thread::hardware_concurrency());
  at::set_num_threads(static_cast<int>(std::max<int64_t>(1, threads)));
  const data::PreprocessOptions options{.schema = schema_of(s.task),
                                        .rule = {.shape = {.num_frames = s.num_frames,
                                                           .height = s.max_height,
                                                           .width = s.max_width,
                                                           .train_fps = s.train_fps},
                                                 .length_tolerance = s.video_length_tolerance_range,
                                                 .speed_factor = s.speed_factor,
                                                 .random_window = s.do_temporal_sample,
                                                 .drop_short_ratio = s.drop_short_ratio,
                                                 .seed = s.seed},
                                        .output = s.dataset_output_dir,
                                        .shard = s.shard.index,
                                        .shards = s.shard.count,
                                        .rows_per_file = s.samples_per_file,
                                        .skips_bad_rows = s.skips_bad_rows,
                                        .max_bad_rows = s.max_bad_rows,
                                        .device = pipelines::resolve_device(s.device)};
  return report_of(data::preprocess(read_inputs(s), call.model, options, call.media_roots,
                                    call.watch, call.on_note));
}

RowsReport synth(const SynthCall& call) {
  return report_of(data::synthesize(call.settings, call.model, call.prompts,
                                    {.output = call.output,
                                     .shard = call.shard.index,
                                     .shards = call.shard.count,
                                     .rows_per_file = call.samples_per_file,
                                     .batch = call.batch,
                                     .ode_timesteps = call.ode_timesteps},
                                    call.watch, call.on_note));
}

void decode_row(const DecodeRowsCall& call,
                models::WanVae& vae,
                const io::Ffmpeg& ffmpeg,
                const at::Tensor& latents,  // [C, T, H, W], as stored
                const Path& to) {
  const int64_t scale = vae.config().scale_factor_spatial;
  const auto sink =
      io::open_video(to,
                     {.size = {.width = latents.size(3) * scale, .height = latents.size(2) * scale},
                      .fps = call.fps},
                     &ffmpeg, call.watch.stop);
  vae.decode(latents.unsqueeze(0), [&](const at::Tensor& chunk) {  // [1, 3, f, P, Q]
    const at::Tensor rgb = pipelines::to_rgb(pipelines::to_unit_range(chunk)).cpu().contiguous();
    for (int64_t f = 0; f < rgb.size(0); ++f) {
      const at::Tensor frame = rgb[f];
      sink->write_frame({frame.const_data_ptr<uint8_t>(), static_cast<std::size_t>(frame.numel())});
    }
    call.watch.throw_if_stopped();
  });
  sink->finish();
}

void decode_rows(const DecodeRowsCall& call) {
  const at::NoGradGuard no_gradients;
  const auto rows =
      io::open_rows(io::parquet_files(call.rows), {.columns = data::training_columns()});
  if (call.first < 0 || call.count < 1 || call.first + call.count > rows->rows()) {
    throw InvalidInput(Code::kBadValue, str("there are rows 0 to ", rows->rows() - 1, ", wanted ",
                                            call.first, " to ", call.first + call.count - 1));
  }
  const at::Device device = pipelines::resolve_device(call.device);
  const io::Ffmpeg ffmpeg = io::open_ffmpeg(call.media_roots);
  const auto vae =
      models::load_wan_vae(call.model.vae, {.device = device, .parts = models::VaeParts::kDecoder});
  for (int64_t i = call.first; i < call.first + call.count; ++i) {
    const data::Example example = data::example_of(rows->read(i), rows->place(i));
    const at::Tensor latents =  // [C, T, H, W]
        example.trajectory.defined() ? data::denormalise(example.trajectory[-1], vae->config())
                                     : example.latents;
    if (!latents.defined() || latents.size(0) != vae->config().z_dim) {
      throw InvalidInput(Code::kBadDataset,
                         str(rows->place(i), ": has no latents of ", vae->config().z_dim,
                             " channels, which this VAE decodes"));
    }
    const Path to = call.output / str("row_", i, ".mp4");
    decode_row(call, *vae, ffmpeg, latents.to(device), to);
    call.on_video(to);
  }
}

}  // namespace
}  // namespace fastwan::cli

extern "C" {

fastwan::cli::RowsReport fastwan_preprocess(const fastwan::cli::PreprocessCall& call) {
  return fastwan::cli::preprocess(call);
}

fastwan::cli::RowsReport fastwan_synth(const fastwan::cli::SynthCall& call) {
  return fastwan::cli::synth(call);
}

void fastwan_decode_rows(const fastwan::cli::DecodeRowsCall& call) {
  fastwan::cli::decode_rows(call);
}
}
