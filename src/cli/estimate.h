// What a resolved request will take: weights as held, work and memory of each stage. No weights
// are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/generate.h"
#include "models/layout/cost.h"
#include "models/layout/model_folder.h"

namespace fastwan::cli {

struct HeldComponent {
  std::string name;
  int64_t num_files = 0;
  int64_t file_bytes = 0;
  int64_t parameters = 0;  // of the parts that this request uses
  double bytes = 0;        // in memory
  std::string held_as;     // fp32, bf16, as stored
};

struct StageCost {
  std::string name;  // text, image, denoise, decode
  double work = 0;
  double weights = 0;      // resident while the stage runs, when only it is resident
  double activations = 0;  // estimate
};

struct Residency {
  config::Offload mode = config::Offload::kNone;
  double peak_bytes = 0;  // on the device that computes
  double host_bytes = 0;  // waiting in host memory; 0 on the CPU
};

struct Estimate {
  layout::LatentSize latent;
  layout::TokenGrid grid;
  int64_t text_tokens = 0;  // of a prompt, at most
  int64_t topk = 0;         // 0: full attention
  int64_t num_forwards = 0;
  std::vector<HeldComponent> components;
  std::vector<StageCost> stages;
  std::vector<Residency> residencies;  // none, stage and, on a GPU, layer

  double total_work() const;
};

// `on_gpu`: the defaults of precision and offload differ.
Estimate estimate(const config::Generate& settings, const layout::ModelFolder& model, bool on_gpu);

}  // namespace fastwan::cli
