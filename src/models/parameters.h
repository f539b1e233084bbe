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

// y = x W^T + b, weight [out, in]; computes in the weight's dtype.
struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], undefined without

  static Linear make(torch::nn::Module& root,
                     const std::string& name,
                     int64_t in,
                     int64_t out,
                     const at::TensorOptions& options);
  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., out]
};

}  // namespace fastwan::models
