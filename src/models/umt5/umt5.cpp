#include "models/umt5.h"

#include <ATen/ops/embedding.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "models/parameters.h"
#include "models/umt5/layer.h"
#include "models/umt5/position.h"

namespace fastwan::models {

Umt5::Umt5(const layout::Umt5Config& config, at::ScalarType held, const Umt5Options& options)
    : config_(config), compute_(options.compute) {
  const auto type = at::TensorOptions(held).device(options.device);
  embedding_ = add_parameter(*this, "shared.weight", {config.vocab_size, config.d_model}, type);
  const auto encoder = register_module("encoder", std::make_shared<torch::nn::Module>());
  const auto list = encoder->register_module("block", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back(
        list->register_module(std::to_string(i), std::make_shared<Umt5Layer>(config, type)));
  }
  final_norm_ = add_parameter(*encoder, "final_layer_norm.weight", {config.d_model}, type);
}

at::Tensor Umt5::forward(const at::Tensor& ids) const {
  Shapes("Umt5").expect("ids", ids.sizes(), "B L");
  invariant(ids.scalar_type() == at::kLong && ids.numel() > 0, "ids are int64, at least one");
  if (ids.min().item<int64_t>() < 0 || ids.max().item<int64_t>() >= config_.vocab_size) {
    throw InvalidInput(Code::kBadTokenizer,
                       str("token ids must be from 0 to ", config_.vocab_size - 1, ", got ",
                           ids.min().item<int64_t>(), " to ", ids.max().item<int64_t>(),
                           ". Is the tokenizer the text encoder's own?"));
  }
  const at::Tensor bucket = position_buckets(ids.size(1), config_, ids.device());  // [L, L]
  at::Tensor x = at::embedding(embedding_, ids).to(compute_);                      // [B, L, C]
  for (const auto& layer : layers_) {
    x = layer->forward(x, bucket);
  }
  return umt5_norm(x, final_norm_, config_.eps);  // [B, L, C]
}

}  // namespace fastwan::models
