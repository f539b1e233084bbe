// LoRA: low-rank updates merged into a model's weights, removed exactly.
//
//   W' = W + scale * (alpha / r * B A + diff)     bias' = bias + scale * diff_b
//
// summed in fp32 over all merged files and rounded once to the weight's type; alpha / r is 1 where
// a file has no alpha. Gates of sparse attention, which train whole beside adapters, stand in a
// file under their own names: W' = W + scale * (gate - W). Key styles: models/layout/lora_keys.h,
// docs/lora.md.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "io/safetensors.h"
#include "models/layout/lora_keys.h"

namespace fastwan::models {

// Holds the weights as they were, so that remove() restores their bytes.
class LoraMerge {
 public:
  explicit LoraMerge(torch::nn::Module& model) : model_(model) {}

  // Returns the keys that fit nothing in the model. InvalidInput lora_mismatch when none fits, a
  // pair is incomplete or shapes disagree; on any error the weights are as before the call.
  std::vector<std::string> merge(const layout::LoraChoice& lora);
  void remove();  // all merges

  // Whether any of the files holds gates or adapters of gates, for a base that may have none. A
  // file that is not there holds none.
  static bool bring_gates(std::span<const std::string> loras);

 private:
  // What one file adds to one parameter.
  struct Update {
    std::optional<io::WeightFiles::Entry> down, up;  // A [r, in], B [out, r]
    std::optional<io::WeightFiles::Entry> diff;      // as the parameter
    std::optional<io::WeightFiles::Entry> whole;     // the parameter itself
    double factor = 1.0;                             // scale * alpha / r, of B A
    double scale = 1.0;                              // of diff and whole
  };
  using Updates = std::map<std::string, Update>;  // by parameter name
  struct Loaded {
    std::unique_ptr<const io::WeightFiles> files;
    Updates updates;
    std::vector<std::string> unmatched;
  };

  Loaded load(const layout::LoraChoice& lora) const;
  void rewrite(const std::string& parameter);

  torch::nn::Module& model_;
  std::map<std::string, at::Tensor> base_;  // parameter name -> its value before the first merge
  std::vector<Loaded> loaded_;
};

}  // namespace fastwan::models
