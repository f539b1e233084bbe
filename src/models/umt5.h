// UMT5 encoder: token ids to text embeddings.
//
// Dims    B batch, L text tokens, C width (d_model), H heads, D head size (d_kv)
// Types   arithmetic in `compute`; weights held in `held`, or as stored; a matrix at a time is cast
// Source  transformers modeling_umt5.py
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "base/files.h"
#include "models/layout/configs.h"

namespace fastwan::models {

struct Umt5Options {
  at::ScalarType compute = at::kFloat;
  std::optional<at::ScalarType> held;  // absent: as the files store them
  at::Device device = at::kCPU;
};

class Umt5Layer;

class Umt5 final : public torch::nn::Module {
 public:
  // Parameters are allocated in `held`, not initialised; names are the checkpoint's.
  Umt5(const layout::Umt5Config& config, at::ScalarType held, const Umt5Options& options);

  // ids [B, L] int64, every row of true length L (no padding: a shorter prompt is a batch of its
  // own) -> [B, L, C] in the compute type.
  at::Tensor forward(const at::Tensor& ids) const;

  const layout::Umt5Config& config() const { return config_; }

 private:
  layout::Umt5Config config_;
  at::ScalarType compute_;
  at::Tensor embedding_;   // [vocab, C]
  at::Tensor final_norm_;  // [C]
  std::vector<std::shared_ptr<Umt5Layer>> layers_;
};

// A component folder: config.json and safetensors. The embedding may be stored as shared.weight,
// as encoder.embed_tokens.weight or as both (then they must be equal).
std::shared_ptr<Umt5> load_umt5(const Path& folder, const Umt5Options& options);

}  // namespace fastwan::models
