// What `fastwan preprocess` asks of libfastwan.so.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/watch.h"
#include "config/generate.h"
#include "models/layout/model_folder.h"

namespace fastwan::cli {

struct Shard {
  int64_t index = 0;
  int64_t count = 1;
};

// Flags of `fastwan preprocess`, by their names.
struct PreprocessSettings {
  Path dataset_path;
  std::string dataset_type;  // merged, json, jsonl, text
  std::string task = "t2v";  // t2v, i2v, text_only
  Path dataset_output_dir;
  int64_t num_frames = 0, max_height = 0, max_width = 0;
  double train_fps = 0;
  int64_t samples_per_file = 64;
  double video_length_tolerance_range = 2.0, drop_short_ratio = 1.0, speed_factor = 1.0;
  bool do_temporal_sample = false;
  uint64_t seed = 1000;
  Shard shard;
  bool skips_bad_rows = false;
  int64_t max_bad_rows = 0;
  std::string device = "auto";
  int64_t threads = 0;
};

struct RowsReport {
  Path folder;
  int64_t inputs = 0, rows = 0, rows_found = 0;
  std::map<std::string, int64_t> left_out;  // reason -> inputs
};

struct PreprocessCall {
  const PreprocessSettings& settings;
  const layout::ModelFolder& model;
  const std::vector<Path>& media_roots;  // as io::open_ffmpeg takes them
  const Watch& watch;
  std::function<void(const std::string&)> on_note;
};
using PreprocessFunction = RowsReport (*)(const PreprocessCall&);  // fastwan_preprocess

// `fastwan preprocess synth`: the teacher's sampling settings are those of generate, resolved.
struct SynthCall {
  const config::Generate& settings;
  const layout::ModelFolder& model;
  const std::vector<std::string>& prompts;
  Path output;
  Shard shard;
  int64_t samples_per_file = 64;
  int64_t batch = 0;                   // 0: chosen by device
  std::vector<int64_t> ode_timesteps;  // as data::SynthOptions
  const Watch& watch;
  std::function<void(const std::string&)> on_note;
};
using SynthFunction = RowsReport (*)(const SynthCall&);  // fastwan_synth

// `fastwan preprocess decode`: stored latents to videos.
struct DecodeRowsCall {
  const layout::ModelFolder& model;
  Path rows;  // folder or file
  int64_t first = 0, count = 1;
  Path output;  // folder
  int64_t fps = 16;
  std::string device = "auto";
  const std::vector<Path>& media_roots;
  const Watch& watch;
  std::function<void(const Path&)> on_video;
};
using DecodeRowsFunction = void (*)(const DecodeRowsCall&);  // fastwan_decode_rows

}  // namespace fastwan::cli
