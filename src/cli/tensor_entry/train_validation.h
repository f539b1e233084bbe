// callbacks.validation: what the student makes of a few prompts, as videos on the way, and what it
// is worth in numbers.
//
// Metrics of a step, of the weights that are shown (the average where the recipe says so)
//   validation_loss, validation_loss/t_00..t_11   finetune, on rows that training does not show:
//                                                 training/validation_loss.h
//   validation_video/clipped, contrast,           of the videos, means over them:
//     saturation, frame_difference, flicker       eval/video_statistics.h
//   validation_seconds, validation_{loss,denoise,decode}_seconds
//
// <output_dir>/validation/step_<S>/ holds, for K steps of sampling and prompt i,
//   validation_step_<S>_inference_steps_<K>_video_<i>.mp4   frames as .safetensors without ffmpeg
//   validation_step_<S>_inference_steps_<K>_video_<i>.png   contact sheet
//   videos.json                                             prompts, seeds, digests of the latents,
//                                                           statistics
// and, with training.tracker.log_visualization, of the first sample of a distillation's last
// student update generator_pred_video, fake_score_pred_video and real_score_pred_video: x^, x_F and
// x_R. x_R should look sharper than x^, x_F like it. Video i has seed training.data.seed + i each
// time, so steps compare; up to rounding it is what `fastwan generate` makes with that seed from
// weights exported at the step.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "cli/tensor_entry/train_parts.h"
#include "config/generate.h"
#include "pipelines/text_to_video.h"
#include "training/ema.h"
#include "training/metrics_log.h"
#include "training/validation_loss.h"

namespace fastwan::cli {

// Normalised latents [b, C, T, H, W] by the name of their video; empty before there are any.
using Previews = std::function<std::map<std::string, at::Tensor>()>;

// Either may be empty.
struct ValidationExtras {
  Previews previews;
  std::unique_ptr<training::ValidationLoss> loss;
};

class Validation {
 public:
  // Reads the prompts; no weights. `context` must outlive it. InvalidInput for prompts, sizes or a
  // decoder's files that cannot be. `student`: its model folder.
  Validation(const TrainContext& context,
             const layout::ModelFolder& student,
             const TrainData& data);

  // Before training takes its memory: the text encoder comes and goes.
  void encode_prompts();
  // What it shows and measures; before the first make().
  void lend(std::shared_ptr<training::Network> student, ValidationExtras extras);

  bool is_due(int64_t step) const;
  // Whether its files are there, to the last one.
  bool is_made(int64_t step) const;

  // Every rank calls it, for a network that is cut over ranks works on all; the first one writes.
  // Nothing that trains changes: `ema` (may be null) lends its average meanwhile where the recipe
  // says so. A video that fails is said and left out; a run of days does not end over one.
  training::Metrics make(int64_t step, training::Ema* ema);

 private:
  // Settings and their pipeline, which refers to them.
  struct Sampling {
    config::Generate settings;
    std::unique_ptr<pipelines::TextToVideo> videos;
  };
  struct Made {
    Json videos = Json::array();
    training::Metrics metrics;
    std::map<std::string, std::vector<double>> statistics;  // by name, a number a video
  };
  void add_sampling(config::Generate settings);
  void measure_loss(Made& made) const;
  void make_videos(int64_t step, Made& made) const;
  // Calls `work`; what fails is said, Stopped goes on.
  void attempt(int64_t step, const std::string& what, const std::function<void()>& work) const;
  // Ranks that share a network must not leave it one by one.
  Watch watch() const;
  void make_one(const Sampling& sampling, int64_t step, std::size_t prompt, Made& made) const;
  void show_previews(int64_t step, Made& made) const;
  Path list_of(int64_t step) const;  // of its videos; written behind them
  // Files of this name for the first rank, none for others.
  pipelines::VideoRequest request_of(int64_t step, const std::string& name) const;

  const TrainContext& context_;
  Path folder_;  // of all validations of the run
  layout::ModelFolder model_;
  std::shared_ptr<training::Network> student_;
  ValidationExtras extras_;
  std::vector<std::string> prompts_;
  std::string extension_ = ".mp4";
  std::vector<std::unique_ptr<Sampling>> samplings_;
};

// Null where the recipe wants none.
std::unique_ptr<Validation> make_validation(const TrainContext& context,
                                            const layout::ModelFolder& student,
                                            const TrainData& data);

}  // namespace fastwan::cli
