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

}  // namespace

void fill_random(const models::WanDit& model, uint64_t seed) {
  const c10::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> parameters;
  for (const auto& parameter : model.named_parameters()) {
    parameters.emplace(parameter.key(), parameter.value());
  }
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
      // A bias has the bound of its weight.
      const at::Tensor& weight = name.ends_with(".bias")
                                     ? parameters.at(name.substr(0, name.size() - 4) + "weight")
                                     : parameter;
      const auto inputs = static_cast<double>(weight.numel() / weight.size(0));
      parameter.copy_(uniform(shape, 1.0 / std::sqrt(inputs), philox));
    }
  }
}

}  // namespace fastwan::training
