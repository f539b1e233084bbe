// A prompt, and where the model takes one a first frame, becomes a video: the order of the stages.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/watch.h"
#include "config/generate.h"
#include "io/media.h"
#include "models/layout/model_folder.h"
#include "pipelines/components.h"

namespace fastwan::pipelines {

// One video and the files that come of it; an empty path: not wanted.
struct VideoRequest {
  std::string prompt;
  int64_t seed = 0;
  Path video;          // .mp4 and its like; .safetensors holds `frames`
  Path contact_sheet;  // PNG of sheet_columns x sheet_rows frames
  int64_t sheet_columns = 0, sheet_rows = 0;
  Path latents, embeds, frames;
  // The decoded frames too, [f, 3, P, Q] in [0, 1], chunk by chunk; empty: nobody looks.
  std::function<void(const at::Tensor& frames)> on_frames;
  std::string metadata;  // JSON text for the video; empty: none
};

struct VideoReport {
  std::vector<Path> files;     // the video, or each of its frames; none when no video was wanted
  std::string latents_sha256;  // of the final normalised latents as fp32
  std::vector<std::pair<std::string, double>> stage_seconds;
};

class TextToVideo {
 public:
  // `settings` are resolved. Opens ffmpeg and settles device, precisions and offload; loads no
  // weights. `venvs`: Python environments that may bring an ffmpeg. `outputs`: what make() will be
  // asked for; only their extensions count here.
  TextToVideo(const config::Generate& settings,
              const layout::ModelFolder& model,
              const std::vector<Path>& venvs,
              const std::vector<Path>& outputs,
              std::function<void(const std::string&)> on_note);
  ~TextToVideo();
  TextToVideo(const TextToVideo&) = delete;
  TextToVideo& operator=(const TextToVideo&) = delete;

  // This network instead of the folder's transformer, which is then never read.
  void lend(LentTransformer transformer);
  // All texts of a run are encoded at once, so that the encoder may leave before the first video.
  void expect_prompts(const std::vector<std::string>& prompts);
  // Now rather than with the first video.
  void encode_prompts(const Watch& watch);
  // Between videos: no weights stay, encoded texts do.
  void release();
  VideoReport make(const VideoRequest& request, const Watch& watch);
  // Files of these latents, normalised [1, C, T, H, W], instead of sampled ones.
  VideoReport show(const at::Tensor& latents, const VideoRequest& request, const Watch& watch);

  std::string device() const;
  std::string offload() const;
  std::string ffmpeg_version() const;  // empty when no ffmpeg is needed

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastwan::pipelines
