// The keys of LoRA files, read without tensors; the merge and `inspect` share them.
//
//   PEFT      transformer.blocks.0.attn1.to_q.lora_A.weight
//   original  diffusion_model.blocks.0.self_attn.q.lora_down.weight, .alpha, .diff, .diff_b
//   musubi    lora_unet_blocks_0_self_attn_q.lora_down.weight, .alpha
#pragma once

#include <optional>
#include <string>

namespace fastwan::layout {

enum class LoraStyle { kPeft, kOriginal, kMusubi };
const char* name_of(LoraStyle style);

enum class LoraPart { kDown, kUp, kAlpha, kDiff, kDiffBias };

struct LoraKey {
  std::string module;  // as Diffusers names it: blocks.0.attn1.to_q
  LoraPart part = LoraPart::kDown;
  LoraStyle style = LoraStyle::kPeft;
};

// Nothing for a key that has no place in a LoRA file.
std::optional<LoraKey> read_lora_key(const std::string& key);

// Key of a file's metadata: {"class_name", "preset"}, how the network with these adapters wants to
// be sampled; "class_name" empty: as the base. Written by training.
inline constexpr const char* kLoraSampling = "fastwan_sampling";

// A gate of sparse attention, whole, under the model's own name: trained beside adapters.
bool is_whole_gate(const std::string& key);

// "PATH" or "PATH:scale". InvalidInput bad_value for a scale that is no number.
struct LoraChoice {
  std::string file;
  double scale = 1.0;
};
LoraChoice read_lora_choice(const std::string& text);

}  // namespace fastwan::layout
