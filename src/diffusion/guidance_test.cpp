#include "diffusion/guidance.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::diffusion {
namespace {

using testing::Golden;
using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;

constexpr double kScale = 4.3, kRescale = 0.7;

at::Tensor velocity(const char* name, at::ScalarType type) {
  return golden_tensor("guidance", name, {2, 4, 3, 5, 6}).to(type);
}

TEST(Guided, RoundsEachOfItsThreeOperations) {
  const Golden golden("diffusion", "guidance");
  for (const auto& [type, name] :
       {std::pair{at::kFloat, "fp32"}, std::pair{at::kBFloat16, "bf16"}}) {
    const at::Tensor c = velocity("conditional", type), u = velocity("unconditional", type);
    const at::Tensor v = guided(c, u, kScale, /*rescale=*/0.0);
    EXPECT_EQ(v.scalar_type(), type);
    EXPECT_TRUE(is_equal(v.to(at::kFloat), golden.tensor(std::string(name) + ".plain")));
  }
  // One rounding at the end would be another result.
  const at::Tensor c = velocity("conditional", at::kBFloat16).to(at::kFloat);
  const at::Tensor u = velocity("unconditional", at::kBFloat16).to(at::kFloat);
  EXPECT_FALSE(at::equal(guided(c, u, kScale, 0.0).to(at::kBFloat16).to(at::kFloat),
                         golden.tensor("bf16.plain")));
}

TEST(Guided, RescalesEachSampleToTheSpreadOfItsConditionalVelocity) {
  const Golden golden("diffusion", "guidance");
  for (const auto& [type, name] :
       {std::pair{at::kFloat, "fp32"}, std::pair{at::kBFloat16, "bf16"}}) {
    const std::string key = std::string(name) + ".rescaled";
    const double share = golden.manifest().at("tolerance").at(key).get<double>();
    const at::Tensor v =
        guided(velocity("conditional", type), velocity("unconditional", type), kScale, kRescale);
    EXPECT_TRUE(
        is_close(v.to(at::kFloat), golden.tensor(key), {.of_range = share, .relative_l2 = share}));
  }
  const at::Tensor c = velocity("conditional", at::kFloat);
  const at::Tensor whole =
      guided(c, velocity("unconditional", at::kFloat), kScale, /*rescale=*/1.0);
  for (int64_t sample = 0; sample < 2; ++sample) {
    EXPECT_NEAR(whole[sample].std().item<double>(), c[sample].std().item<double>(), 1e-5);
  }
}

TEST(Guided, OfScaleOneIsTheConditionalVelocity) {
  const at::Tensor c = velocity("conditional", at::kDouble);
  const at::Tensor v = guided(c, velocity("unconditional", at::kDouble), 1.0, 0.0);
  EXPECT_TRUE(is_close(v, c, {.of_range = 1e-15, .relative_l2 = 1e-15}));
}

}  // namespace
}  // namespace fastwan::diffusion
