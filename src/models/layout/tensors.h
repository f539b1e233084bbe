// The tensor names and shapes that a configuration implies; the loader and `inspect` share them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/layout/configs.h"

namespace fastwan::layout {

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;

  int64_t num_elements() const;
};

std::vector<TensorSpec> tensors_of(const WanDitConfig& config);  // gates if config.is_gated
std::vector<TensorSpec> tensors_of(const WanVaeConfig& config);
std::vector<TensorSpec> tensors_of(const Umt5Config& config);
int64_t num_parameters(const std::vector<TensorSpec>& tensors);

inline constexpr const char* kGateName = "to_gate_compress";

// A linear layer of a block that can have a low-rank adapter: name within the block, sizes.
struct LoraModule {
  std::string name;
  int64_t in = 0, out = 0;
};
// Those of a block in whose name one of `words` stands between dots ("to_q", "attn2.to_out",
// "ffn"); without words q, k, v and out of both attentions, and the gate if config.is_gated.
// InvalidInput bad_value: a word that names no layer. FastVideo's defaults for other layouts
// (q_proj, k_proj, v_proj, o_proj, to_qkv) and the gate of a model without may name none.
std::vector<LoraModule> lora_modules(const WanDitConfig& config,
                                     const std::vector<std::string>& words);

// A name of the original Wan files as Diffusers spells it; other names are returned as they are.
std::string diffusers_name_of_original(const std::string& name);
// A name of FastVideo's internal checkpoints as Diffusers spells it; other names are returned as
// they are.
std::string diffusers_name_of_fastvideo(const std::string& name);

}  // namespace fastwan::layout
