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

// A name of the original Wan files as Diffusers spells it; other names are returned as they are.
std::string diffusers_name_of_original(const std::string& name);
// A name of FastVideo's internal checkpoints as Diffusers spells it; other names are returned as
// they are.
std::string diffusers_name_of_fastvideo(const std::string& name);

}  // namespace fastwan::layout
