#include "models/parameters.h"

#include <memory>

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include "base/text.h"
#include "ops/linear.h"

namespace fastwan::models {

at::Tensor add_parameter(torch::nn::Module& root,
                         const std::string& dotted_name,
                         at::IntArrayRef shape,
                         const at::TensorOptions& options) {
  torch::nn::Module* at_module = &root;
  const std::vector<std::string> words = split(dotted_name, '.');
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    const auto children = at_module->named_children();
    const auto* child = children.find(words[i]);
    at_module =
        child != nullptr
            ? child->get()
            : at_module->register_module(words[i], std::make_shared<torch::nn::Module>()).get();
  }
  return at_module->register_parameter(words.back(), at::empty(shape, options),
                                       /*requires_grad=*/false);
}

Linear Linear::make(torch::nn::Module& root,
                    const std::string& name,
                    int64_t in,
                    int64_t out,
                    const at::TensorOptions& options) {
  return {.weight = add_parameter(root, name + ".weight", {out, in}, options),
          .bias = add_parameter(root, name + ".bias", {out}, options)};
}

void Linear::add_adapter(torch::nn::Module& root,
                         const std::string& name,
                         int64_t rank,
                         double scale) {
  lora_a = add_parameter(root, name + ".lora_A.weight", {rank, weight.size(1)}, weight.options());
  lora_b = add_parameter(root, name + ".lora_B.weight", {weight.size(0), rank}, weight.options());
  lora_scale = scale;
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  const at::Tensor y = ops::linear(x, weight, bias);
  return lora_a.defined() ? at::add(y, at::linear(at::linear(x, lora_a), lora_b), lora_scale) : y;
}

}  // namespace fastwan::models
