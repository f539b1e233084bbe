// The door to libfastwan.so: opened only by commands that need tensors, because a program that
// links torch takes half a second to reach main.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/watch.h"
#include "cli/checkpoint_calls.h"
#include "cli/command.h"
#include "cli/outputs.h"
#include "cli/preprocess_call.h"
#include "config/evaluation.h"
#include "config/generate.h"
#include "config/recipe.h"
#include "config/train_run.h"
#include "models/layout/model_folder.h"

namespace fastwan::cli {

// One video to make.
struct VideoJob {
  std::string prompt;
  int64_t seed = 0;
  Path output;  // empty: nothing but latents, embeddings or frames are saved
  SideFiles side;
};

struct VideoResult {
  std::vector<Path>
      files;  // the video, or each of its frames; none when nothing but tensors is saved
  Path contact_sheet;
  int64_t seed = 0;
  std::string latents_sha256;
  std::vector<std::pair<std::string, double>> stage_seconds;
};

// What libfastwan.so is asked for. All settings are resolved.
struct GenerateCall {
  const config::Generate& settings;
  const layout::ModelFolder& model;
  const std::vector<VideoJob>& jobs;
  const std::vector<Path>& media_roots;  // as io::open_ffmpeg takes them
  Json metadata;                         // without prompt and seed, which the callee adds per video
  const Watch& watch;
  std::function<void(int64_t job)> on_begin;
  std::function<void(const VideoResult&)> on_result;
  std::function<void(const std::string&)> on_note;
};

struct GenerateReport {
  std::string device;
  std::string offload;
  int64_t threads = 0;
};

// What libfastwan.so is asked for to train. The recipe is complete and checked; a stop wish of the
// watch ends the run after its iteration, with a checkpoint.
struct TrainCall {
  const config::Recipe& recipe;
  const config::TrainRun& run;
  const config::TrainListener& listener;
  const Watch& watch;
};

// One set of videos measured against another; see eval/run.h for what each means.
struct EvalCall {
  Path videos, reference, features, output;
  std::vector<std::string> metrics;
  double fps = 0;
  std::string device = "auto";
  const std::vector<Path>& media_roots;
  const Watch& watch;
  std::function<void(const std::string&)> on_note;
};

// `eval experiment`; see eval/experiment/experiment.h.
struct ExperimentCall {
  const config::Evaluation& evaluation;
  std::vector<std::string> rows;
  double max_seconds = 0;
  std::string device = "auto";
  std::string cpu_name;                // what rows say of where they were made
  std::vector<std::string> gpu_names;  // cuda:0 first
  const Watch& watch;
  std::function<void(const std::string&)> on_note;
};

// The functions that libfastwan.so exports, by C name: fastwan_generate, fastwan_train,
// fastwan_evaluate, fastwan_experiment, fastwan_probe.
using GenerateFunction = GenerateReport (*)(const GenerateCall&);
using TrainFunction = config::TrainReport (*)(const TrainCall&);
using EvaluateFunction = Json (*)(const EvalCall&);
using ExperimentFunction = Json (*)(const ExperimentCall&);
using ProbeFunction = std::string (*)();  // torch version, devices: one line

class TensorLibrary {
 public:
  // IoError missing_library, with the loader's reason and what to do.
  explicit TensorLibrary(const Program& program);
  ~TensorLibrary();
  TensorLibrary(const TensorLibrary&) = delete;
  TensorLibrary& operator=(const TensorLibrary&) = delete;
  GenerateReport generate(const GenerateCall& call) const;
  config::TrainReport train(const TrainCall& call) const;
  void consolidate(const ConsolidateCall& call) const;
  std::vector<std::string> diff_checkpoints(const Path& a, const Path& b) const;
  Json evaluate(const EvalCall& call) const;
  Json run_experiment(const ExperimentCall& call) const;
  RowsReport preprocess(const PreprocessCall& call) const;
  RowsReport synthesize(const SynthCall& call) const;
  void decode_rows(const DecodeRowsCall& call) const;
  std::string probe() const;

 private:
  void* symbol(const char* name) const;
  void* handle_ = nullptr;
};

}  // namespace fastwan::cli
