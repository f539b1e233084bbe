// What an experiment on procedural clips is judged by: which models make which rows, from how many
// prompts, against which gates.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "config/generate.h"

namespace fastwan::config {

// What makes the clips of a row.
enum class ClipsFrom {
  kRendered,       // the procedure itself: what is real
  kReconstructed,  // real clips through the VAE
  kSampled,        // a model, from prompts
};

struct EvaluationRow {
  std::string name;   // as gates spell it: teacher, student, ...
  std::string title;  // as people read it
  ClipsFrom clips = ClipsFrom::kSampled;
  std::string model;  // model folder; only of sampled rows
  Sampler sampler = Sampler::kUnipc;
  int64_t steps = 50;                                        // unipc, euler
  std::vector<int64_t> dmd_denoising_steps{1000, 757, 522};  // dmd
  bool warp_denoising_step = false;                          // they are base timesteps
  double flow_shift = 3;
  double guidance_scale = 1;
  AttentionBackend attention_backend = AttentionBackend::kDense;
  double vsa_sparsity = 0.8;
};

struct Evaluation {
  std::string model;       // VAE, text encoder and tokenizer of all rows
  std::string features;    // file of the feature net
  std::string text_heads;  // file of the text encoder's heads; may be missing
  std::string thresholds;
  std::string figures;     // JSON of figures that are measured elsewhere; may be missing
  std::string output_dir;  // report.html, report.json, rows/, sheets/
  int64_t seed = 2000;
  int64_t num_frames = 29, num_height = 96, num_width = 96;
  int64_t samples = 2048;  // prompts of seen combinations, and as many of held-out ones
  int64_t prompts = 32, samples_per_prompt = 64;  // for the law of what prompts leave open
  int64_t batch = 128;
  std::vector<EvaluationRow> rows;          // in the file's order
  std::map<std::string, std::string> runs;  // name -> folder with metrics.jsonl, for curves
};

// Strict YAML. InvalidInput bad_config, unknown_key, bad_value.
Evaluation read_evaluation(const Path& file);

// Fewer samples of everything, in proportion where that can be.
void set_samples(Evaluation& evaluation, int64_t samples);

}  // namespace fastwan::config
