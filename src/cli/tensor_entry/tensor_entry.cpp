// What libfastwan.so exports: the other side of tensor_library.h, where the command line meets the
// rooms that need torch.
#include <utility>

#include <ATen/Parallel.h>
#include <torch/version.h>

#include "base/text.h"
#include "cli/tensor_library.h"
#include "pipelines/device.h"
#include "pipelines/text_to_video.h"

namespace fastwan::cli {
namespace {

// The metadata of one video: what the request says, without what --metadata leaves out.
std::string metadata_of(const GenerateCall& call,
                        const VideoJob& job,
                        const std::string& ffmpeg_version) {
  const config::Metadata detail = *call.settings.metadata;
  if (detail == config::Metadata::kNone) {
    return "";
  }
  Json document = call.metadata;
  document["seed"] = job.seed;
  if (!ffmpeg_version.empty()) {
    document["ffmpeg"] = ffmpeg_version;
  }
  if (detail == config::Metadata::kMinimal) {
    document["settings"].erase("--negative-prompt");
  } else {
    document["prompt"] = job.prompt;
  }
  return document.dump();
}

pipelines::VideoRequest request_of(const VideoJob& job, std::string metadata) {
  return {.prompt = job.prompt,
          .seed = job.seed,
          .video = job.output,
          .contact_sheet = job.side.contact_sheet,
          .sheet_columns = job.side.sheet.columns,
          .sheet_rows = job.side.sheet.rows,
          .latents = job.side.latents,
          .embeds = job.side.embeds,
          .frames = job.side.frames,
          .metadata = std::move(metadata)};
}

GenerateReport generate(const GenerateCall& call) {
  std::vector<Path> outputs;
  std::vector<std::string> prompts;
  for (const VideoJob& job : call.jobs) {
    outputs.push_back(job.output);
    prompts.push_back(job.prompt);
  }
  pipelines::TextToVideo pipeline(call.settings, call.model, call.media_roots, outputs,
                                  call.on_note);
  pipeline.expect_prompts(prompts);
  for (std::size_t i = 0; i < call.jobs.size(); ++i) {
    call.watch.throw_if_stopped();
    call.on_begin(static_cast<int64_t>(i));
    const VideoJob& job = call.jobs[i];
    const pipelines::VideoReport made = pipeline.make(
        request_of(job, metadata_of(call, job, pipeline.ffmpeg_version())), call.watch);
    call.on_result({.files = made.files,
                    .contact_sheet = job.side.contact_sheet,
                    .seed = job.seed,
                    .latents_sha256 = made.latents_sha256,
                    .stage_seconds = made.stage_seconds});
  }
  return {
      .device = pipeline.device(), .offload = pipeline.offload(), .threads = at::get_num_threads()};
}

}  // namespace
}  // namespace fastwan::cli

extern "C" {

fastwan::cli::GenerateReport fastwan_generate(const fastwan::cli::GenerateCall& call) {
  return fastwan::cli::generate(call);
}

std::string fastwan_probe() {
  return fastwan::str("torch ", TORCH_VERSION, ", ", fastwan::pipelines::num_gpus(), " GPUs");
}
}
