// LoRA: low-rank updates merged into a model's weights, removed exactly.
//
//   W' = W + scale * (alpha / r) * B A     [+ scale * diff], bias' = bias + scale * diff_b
//
// merged in fp32, rounded once to the weight's type. Three key styles (docs/lora.md): PEFT
// (transformer.blocks.i.attn1.to_q.lora_A.weight), original Wan
// (diffusion_model.blocks.i.self_attn.q.lora_down.weight, .alpha, .diff, .diff_b), musubi
// (lora_unet_blocks_i_self_attn_q.lora_down.weight).
#pragma once

#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "base/files.h"

namespace fastwan::models {

struct LoraFile {
  Path file;
  double scale = 1.0;
};

// "PATH" or "PATH:scale". InvalidInput bad_value.
LoraFile parse_lora(const std::string& text);

// Holds the weights as they were, so that remove() restores their bytes.
class LoraMerge {
 public:
  explicit LoraMerge(torch::nn::Module& model) : model_(model) {}

  // Returns the keys that fit nothing in the model. InvalidInput lora_mismatch when none fits, a
  // pair is incomplete or shapes disagree; files are checked before any weight changes.
  std::vector<std::string> merge(const LoraFile& lora);
  void remove();  // all merges

 private:
  torch::nn::Module& model_;
  std::map<std::string, at::Tensor> base_;  // parameter name -> its value before the first merge
};

}  // namespace fastwan::models
