#include "models/shape_features.h"

#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "support/compare.h"

namespace fastwan::models {
namespace {

at::Tensor ramp(at::IntArrayRef shape) {
  return at::linspace(-1, 1, c10::multiply_integers(shape)).sin().view(shape);
}

TEST(ShapeFeatures, HasTheStatedNumberOfParameters) {
  int64_t count = 0;
  const ShapeFeatures net;
  for (const at::Tensor& parameter : net.parameters()) {
    count += parameter.numel();
  }
  EXPECT_EQ(count, 183'004);
}

TEST(ShapeFeatures, GivesSixtyFourFeaturesAndOneLogitAClassForAnySize) {
  ShapeFeatures net;
  net.initialise(1);
  for (const auto& shape : {std::vector<int64_t>{2, 3, 29, 96, 96}, {1, 3, 13, 64, 64}}) {
    const at::Tensor features = net.features(ramp(shape));
    EXPECT_EQ(features.sizes(), (std::vector<int64_t>{shape[0], 64}));
    const std::vector<at::Tensor> logits = net.logits(features);
    ASSERT_EQ(logits.size(), 6u);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      EXPECT_EQ(logits[i].sizes(), (std::vector<int64_t>{shape[0], ShapeFeatures::kClasses[i]}));
    }
  }
  EXPECT_THROW(net.features(ramp({1, 4, 13, 64, 64})), InvalidInput);
}

TEST(ShapeFeatures, OneWeightTapAnswersAsByHand) {
  ShapeFeatures net;
  for (const auto& parameter : net.named_parameters()) {
    parameter.value().zero_();
  }
  // Only the centre taps of channel 0 pass the signal on.
  for (int i = 0; i < 4; ++i) {
    net.named_parameters()[str("conv.", i, ".weight")][0][0][1][1][1].fill_(1);
  }
  const at::Tensor features = net.features(at::full({1, 3, 5, 32, 32}, 2.0));
  double x = 2;
  for (int i = 0; i < 4; ++i) {
    x = x / (1 + std::exp(-x));
  }
  EXPECT_NEAR(features[0][0].item<double>(), x, 1e-6);
  EXPECT_EQ(features[0][1].item<double>(), 0);
}

TEST(ShapeFeatures, InitialisationDependsOnTheSeedAndKeepsTheScale) {
  ShapeFeatures a, b, c;
  a.initialise(7);
  b.initialise(7);
  c.initialise(8);
  const std::string name = "conv.3.weight";
  EXPECT_TRUE(testing::is_equal(a.named_parameters()[name], b.named_parameters()[name]));
  EXPECT_FALSE(testing::is_equal(a.named_parameters()[name], c.named_parameters()[name]));
  // 110,592 draws of variance 2 / 1728: the sample's standard deviation errs by 0.2 %.
  EXPECT_NEAR(a.named_parameters()[name].std().item<double>(), std::sqrt(2.0 / 1728), 3e-4);
}

TEST(ShapeFeatures, GradientsReachEveryParameter) {
  ShapeFeatures net;
  net.initialise(3);
  for (at::Tensor& parameter : net.parameters()) {
    parameter.requires_grad_(true);
  }
  at::Tensor loss = at::full({}, 0.0);
  for (const at::Tensor& logits : net.logits(net.features(ramp({1, 3, 9, 32, 32})))) {
    loss = loss + logits.square().sum();
  }
  loss.backward();
  for (const auto& parameter : net.named_parameters()) {
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_GT(parameter.value().grad().abs().sum().item<double>(), 0) << parameter.key();
  }
}

TEST(ShapeFeatures, SavedWeightsComeBack) {
  ShapeFeatures net;
  net.initialise(5);
  const TempFolder folder;
  save_shape_features(folder.where() / "features.safetensors", net);
  const auto loaded = load_shape_features(folder.where() / "features.safetensors");
  const at::Tensor video = ramp({1, 3, 5, 32, 32});
  EXPECT_TRUE(testing::is_equal(loaded->features(video), net.features(video)));
}

}  // namespace
}  // namespace fastwan::models
