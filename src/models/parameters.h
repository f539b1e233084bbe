// Parameters under the dotted names of the checkpoint, and the two layers that every model shares.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

namespace fastwan::models {

// Allocates a parameter, not initialised, under root as "attn1.to_out.0.weight": one nested module
// a word.
at::Tensor add_parameter(torch::nn::Module& root,
                         const std::string& dotted_name,
                         at::IntArrayRef shape,
                         const at::TensorOptions& options);

// y = x W^T + b, weight [out, in]; computes in the weight's dtype. With a low-rank adapter, beside
// which the weight can stay frozen: y += scale * (x A^T) B^T.
struct Linear {
  at::Tensor weight;          // [out, in]
  at::Tensor bias;            // [out], undefined without
  at::Tensor lora_a, lora_b;  // [r, in], [out, r]; undefined without
  double lora_scale = 0;

  static Linear make(torch::nn::Module& root,
                     const std::string& name,
                     int64_t in,
                     int64_t out,
                     const at::TensorOptions& options);
  // Parameters <name>.lora_A.weight and <name>.lora_B.weight, not initialised.
  void add_adapter(torch::nn::Module& root, const std::string& name, int64_t rank, double scale);
  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., out]
};

}  // namespace fastwan::models
