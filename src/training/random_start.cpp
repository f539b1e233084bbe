#include "training/random_start.h"

#include <cmath>
#include <map>
#include <span>
#include <string>

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "base/rng.h"
#include "models/layout/tensors.h"

namespace fastwan::training {
namespace {

bool contains(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

at::Tensor uniform(at::IntArrayRef shape, double bound, const Philox& philox) {
  const at::Tensor out = at::empty(shape, at::kFloat);
  const std::span<float> values(out.mutable_data_ptr<float>(),
                                static_cast<std::size_t>(out.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(bound * (2.0 * philox.uniform(static_cast<int64_t>(i)) - 1.0));
  }
  return out;
}

at::Tensor normal(at::IntArrayRef shape, double deviation, const Philox& philox) {
  const at::Tensor out = at::empty(shape, at::kFloat);
  philox.fill_normal(0, {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out * deviation;
}

std::map<std::string, at::Tensor> parameters_of(const torch::nn::Module& model) {
  std::map<std::string, at::Tensor> parameters;
  for (const auto& parameter : model.named_parameters()) {
    parameters.emplace(parameter.key(), parameter.value());
  }
  return parameters;
}

double inputs_of(const at::Tensor& weight) {
  return static_cast<double>(weight.numel() / weight.size(0));
}

// The bound of a weight, and of its bias, in torch's linear layers and convolutions.
double bound_of(const std::map<std::string, at::Tensor>& parameters, const std::string& name) {
  const at::Tensor& weight = name.ends_with(".bias")
                                 ? parameters.at(name.substr(0, name.size() - 4) + "weight")
                                 : parameters.at(name);
  return 1.0 / std::sqrt(inputs_of(weight));
}

}  // namespace

void fill_random(const models::WanDit& model, uint64_t seed) {
  const c10::NoGradGuard no_grad;
  const std::map<std::string, at::Tensor> parameters = parameters_of(model);
  int64_t place = 0;
  for (const auto& [name, parameter] : parameters) {
    const Philox philox(seed, Stream::kInit, /*step=*/0, place++);
    const at::IntArrayRef shape = parameter.sizes();
    if (contains(name, layout::kGateName)) {
      parameter.zero_();
    } else if (contains(name, "scale_shift_table")) {
      parameter.copy_(normal(shape, 1.0 / std::sqrt(static_cast<double>(shape.back())), philox));
    } else if (contains(name, "norm")) {
      parameter.fill_(name.ends_with(".bias") ? 0.0 : 1.0);
    } else {
      parameter.copy_(uniform(shape, bound_of(parameters, name), philox));
    }
  }
}

void fill_random(const models::WanVae& model, uint64_t seed) {
  const c10::NoGradGuard no_grad;
  const std::map<std::string, at::Tensor> parameters = parameters_of(model);
  int64_t place = 0;
  for (const auto& [name, parameter] : parameters) {
    const Philox philox(seed, Stream::kInit, /*step=*/0, place++);
    if (name.ends_with(".gamma")) {
      parameter.fill_(1.0);
    } else {
      parameter.copy_(uniform(parameter.sizes(), bound_of(parameters, name), philox));
    }
  }
}

void fill_random(const models::Umt5& model, uint64_t seed) {
  const c10::NoGradGuard no_grad;
  int64_t place = 0;
  for (const auto& [name, parameter] : parameters_of(model)) {
    const Philox philox(seed, Stream::kInit, /*step=*/0, place++);
    if (contains(name, "norm")) {
      parameter.fill_(1.0);
      continue;
    }
    double variance = 1.0 / inputs_of(parameter);
    if (name == "shared.weight") {
      variance = 1.0;
    } else if (contains(name, "relative_attention_bias")) {
      variance = 1.0 / static_cast<double>(model.config().d_model);
    } else if (name.ends_with(".q.weight")) {
      variance /= static_cast<double>(model.config().d_kv);
    }
    parameter.copy_(normal(parameter.sizes(), std::sqrt(variance), philox));
  }
}

void fill_random(const models::Linear& layer, uint64_t seed, int64_t place) {
  const c10::NoGradGuard no_grad;
  const double bound = 1.0 / std::sqrt(inputs_of(layer.weight));
  layer.weight.copy_(
      uniform(layer.weight.sizes(), bound, Philox(seed, Stream::kInit, /*step=*/1, place)));
  if (layer.bias.defined()) {
    layer.bias.copy_(uniform(layer.bias.sizes(), bound,
                             Philox(seed, Stream::kInit, /*step=*/1, place, /*draw=*/1)));
  }
}

}  // namespace fastwan::training
