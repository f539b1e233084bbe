// What a training run is asked beside its recipe, and what it answers. Nothing here changes what is
// computed from a fresh start, so nothing here is part of the recipe or its hash.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"

namespace fastwan::config {

struct TrainRun {
  std::string resume = "auto";  // auto, latest, none or a checkpoint folder
  // Differences from the checkpoint that are accepted: seed, dataset, world_size, config, or
  // dotted keys of the recipe.
  std::vector<std::string> allow_change;
  bool deterministic = false;
  std::string device = "auto";  // auto, cpu, cuda or cuda:i
  int64_t threads = 0;          // 0: all cores
  Path profile;                 // a trace of some iterations; empty: none
  // Where the recipe's hub ids lie on this machine: snapshots of the local cache, named by their
  // commit. What is not listed is a path.
  std::map<std::string, Path> snapshots;
  // Python environments that may hold the imageio-ffmpeg wheel, as io::open_ffmpeg takes them.
  std::vector<Path> media_roots;
  // This machine's processors, as they call themselves; GPUs from cuda:0 on; empty: unknown.
  std::string cpu_name;
  std::vector<std::string> gpu_names;
  // Operations a second in bf16 that the data sheet of each GPU promises, cuda:0 first; 0: unknown.
  std::vector<double> gpu_rates;
};

// After an iteration that was logged.
struct TrainProgress {
  int64_t step = 0;   // 1-based
  int64_t total = 0;  // training.loop.max_train_steps
  std::map<std::string, double> metrics;
};

// What the command line listens to; empty functions are not called.
struct TrainListener {
  std::function<void(const TrainProgress&)> on_progress;
  std::function<void(const std::string&)> on_note;
};

struct TrainReport {
  std::string device;
  int64_t step = 0;          // iterations done
  bool is_complete = false;  // false: stopped on request or by max_seconds, resumable
  Path checkpoint;           // the last one committed
  std::vector<Path> exports;
};

}  // namespace fastwan::config
