// Golden files and the generated weights that go with them; the twin of tools/golden/common.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "base/json.h"

namespace fastwan::testing {

// A tensor that depends on (case, name, shape, mean, std) alone, in every bit the same as Python's.
at::Tensor golden_tensor(std::string_view golden_case,
                         std::string_view name,
                         at::IntArrayRef shape,
                         double mean = 0.0,
                         double std = 1.0);

// The value of a parameter by the law of its name; `d_kv` for UMT5's query matrices.
at::Tensor golden_weight(std::string_view golden_case,
                         std::string_view name,
                         at::IntArrayRef shape,
                         int64_t d_kv = 0);

// Fills every parameter, cast to its dtype; returns the digest of the fp32 values.
std::string fill_golden_weights(torch::nn::Module& model,
                                std::string_view golden_case,
                                int64_t d_kv = 0);

// tests/golden/<area>/<case>.safetensors and <case>.json.
class Golden {
 public:
  Golden(const std::string& area, const std::string& golden_case);
  at::Tensor tensor(const std::string& name) const;
  const Json& manifest() const { return manifest_; }
  // The stored part of a whole output: elements 0, stride, 2 stride, ... of its flat form. Also
  // checks the element count.
  at::Tensor sample_of(const std::string& name, const at::Tensor& whole) const;

 private:
  std::string file_;
  Json manifest_;
};

}  // namespace fastwan::testing
