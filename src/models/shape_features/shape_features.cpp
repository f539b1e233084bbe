#include "models/shape_features.h"

#include <cmath>

#include <ATen/ops/conv3d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>

#include "base/rng.h"
#include "base/shape.h"
#include "base/text.h"
#include "models/checkpoint.h"

namespace fastwan::models {
namespace {

constexpr std::array<int64_t, 5> kChannels = {3, 16, 32, 64, 64};
constexpr int64_t kKernel = 3;

}  // namespace

ShapeFeatures::ShapeFeatures(const at::TensorOptions& options) {
  for (std::size_t i = 0; i < convs_.size(); ++i) {
    const std::string name = str("conv.", i);
    convs_[i].weight =
        add_parameter(*this, name + ".weight",
                      {kChannels[i + 1], kChannels[i], kKernel, kKernel, kKernel}, options);
    convs_[i].bias = add_parameter(*this, name + ".bias", {kChannels[i + 1]}, options);
  }
  for (std::size_t i = 0; i < kHeads.size(); ++i) {
    heads_.push_back(Linear::make(*this, str("heads.", kHeads[i]), kWidth, kClasses[i], options));
  }
}

void ShapeFeatures::initialise(uint64_t seed) {
  auto fill = [seed, slot = int64_t{0}](const at::Tensor& weight, const at::Tensor& bias,
                                        double gain) mutable {
    const int64_t fan_in = weight.numel() / weight.size(0);
    at::Tensor values = at::empty(weight.sizes(), at::kFloat);
    Philox(seed, Stream::kInit, /*step=*/0, slot++)
        .fill_normal(0,
                     {values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
    weight.detach().copy_(values * std::sqrt(gain / static_cast<double>(fan_in)));
    bias.detach().zero_();
  };
  for (const Conv& conv : convs_) {
    fill(conv.weight, conv.bias, 2.0);
  }
  for (const Linear& head : heads_) {
    fill(head.weight, head.bias, 1.0);
  }
}

at::Tensor ShapeFeatures::features(const at::Tensor& video) const {
  Shapes shapes("shape features");
  shapes.expect("video", video.sizes(), "B 3 F P Q");
  at::Tensor x = video;
  for (std::size_t i = 0; i < convs_.size(); ++i) {
    const int64_t stride_in_time = i == 0 ? 1 : 2;
    x = at::silu(at::conv3d(x, convs_[i].weight, convs_[i].bias,
                            /*stride=*/at::IntArrayRef{stride_in_time, 2, 2},
                            /*padding=*/at::IntArrayRef{1, 1, 1}));
  }
  return x.mean({2, 3, 4});  // [B, 64]
}

std::vector<at::Tensor> ShapeFeatures::logits(const at::Tensor& features) const {
  std::vector<at::Tensor> out;
  for (const Linear& head : heads_) {
    out.push_back(head(features));
  }
  return out;
}

std::shared_ptr<ShapeFeatures> load_shape_features(const Path& file,
                                                   const at::TensorOptions& options) {
  auto net = std::make_shared<ShapeFeatures>(options);
  load_weights(*net, io::WeightFiles::open(file));
  return net;
}

void save_shape_features(const Path& file, const ShapeFeatures& net) {
  std::vector<NamedTensor> tensors;
  for (const auto& parameter : net.named_parameters()) {
    tensors.push_back({parameter.key(), parameter.value().detach()});
  }
  save_tensors(file, tensors, {{"format", "pt"}, {"model", "ShapeFeatures"}});
}

}  // namespace fastwan::models
