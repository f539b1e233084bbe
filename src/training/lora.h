// Training a WanDit through low-rank adapters: y = W x + b + (alpha / r) B (A x), the base frozen.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "models/checkpoint.h"
#include "models/wan_dit.h"
#include "training/network.h"

namespace fastwan::training {

struct LoraOptions {
  int64_t rank = 32;
  double alpha = 32;
  // Layers that get adapters, as layout::lora_modules takes them; empty: those of attention.
  std::vector<std::string> target_modules;
  // Gates (to_gate_compress): trained whole instead of through an adapter.
  bool trains_gates = false;
  uint64_t seed = 0;  // of A's start values
};

// Adds adapters to the target modules of every block (to the gates unless they are trained whole):
// A uniform in +-1/sqrt(in) from stream init, B zero, so that the network
// starts as its base. Before the model goes into a Network.
void add_lora(models::WanDit& model, const LoraOptions& options);

// NetworkOptions::trains of such a network.
std::function<bool(const std::string&)> lora_trains(const LoraOptions& options);

// What a LoRA file holds: <module>.lora_A.weight [r, in], <module>.lora_B.weight [out, r] in fp32,
// gates whole where they were trained. <module>.alpha where alpha is not the rank.
struct LoraExport {
  std::vector<models::NamedTensor> tensors;
  std::map<std::string, std::string> metadata;  // alpha, rank
};
LoraExport export_lora(Network& network, const LoraOptions& options);
// The same of trained weights that a checkpoint holds.
LoraExport export_lora(const std::vector<models::NamedTensor>& trained, const LoraOptions& options);
// <to>/pytorch_lora_weights.safetensors, as diffusers names it, in the place of an earlier export.
void save_lora(const Path& to, const LoraExport& lora);

}  // namespace fastwan::training
