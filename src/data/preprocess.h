// Clips and captions, or prompts, to rows of training data.
//
// Dims  C T H W latents, L prompt tokens, F P Q pixel frames, height and width
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "base/watch.h"
#include "data/clip_list.h"
#include "data/frames.h"
#include "data/row_shard.h"
#include "io/media.h"
#include "io/parquet.h"
#include "models/layout/model_folder.h"

namespace fastwan::data {

struct PreprocessOptions {
  io::RowSchema schema = io::RowSchema::kT2v;  // t2v, i2v or text_only
  ClipRule rule;
  Path output;        // the shard lies in combined_parquet_dataset/worker_<shard> below
  int64_t shard = 0;  // of shards: contiguous shares of the list
  int64_t shards = 1;
  int64_t rows_per_file = 64;
  bool skips_bad_rows = false;  // else the first one ends the run
  int64_t max_bad_rows = 0;     // ends a run that skips after so many; 0: never
  at::Device device = at::kCPU;
};

struct RowsMade {
  Path folder;
  int64_t inputs = 0;      // of this shard
  int64_t rows = 0;        // in its files
  int64_t rows_found = 0;  // of those, made by earlier runs
  Counts left_out;         // by reason
};

using Note = std::function<void(const std::string&)>;

// Resumes what RowShard finds. A row holds the posterior's mean [C, T, H, W] in fp32, not
// normalised, and the encoder's output [L, D] in fp32 at the prompt's true length (text_only: with
// zero rows up to the model's maximum). Its num_frames is T, width and height are pixels, fps is
// the clip's own: train_fps. i2v also has first_frame_latent [C, T, H, W], normalised, of the first
// frame followed by grey ones, and pil_image [P, Q, 3] bytes.
//
// InvalidInput bad_value: num_frames that is not 4k+1 or above 121, sides that the model cannot
// take; bad_dataset for a clip that repeats another, before any work, bad_media, not_found,
// non_finite for a row, unless such rows are skipped; Stopped. What is
// finished stays.
RowsMade preprocess(const std::vector<ClipInput>& clips,
                    const layout::ModelFolder& model,
                    const PreprocessOptions& options,
                    const std::vector<Path>& venvs,
                    const Watch& watch,
                    const Note& on_note);

}  // namespace fastwan::data
