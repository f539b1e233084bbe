#include "training/clip.h"

#include <cmath>
#include <limits>
#include <memory>

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "models/parameters.h"
#include "support/compare.h"

namespace fastwan::training {
namespace {

using testing::is_equal;

struct Fixture {
  Fixture() : module(std::make_shared<torch::nn::Module>()) {
    models::add_parameter(*module, "first.weight", {2, 3}, at::kFloat).fill_(1.0);
    models::add_parameter(*module, "second.bias", {4}, at::kFloat).fill_(1.0);
    units = std::make_unique<Units>(
        *module,
        std::vector<UnitNames>{{.name = "one", .parameters = {"first.weight"}},
                               {.name = "two", .parameters = {"second.bias"}}},
        UnitsOptions{}, distributed::one_process());
    units->gradient(0).fill_(1.0);  // 6
    units->gradient(1).fill_(2.0);  // 16
  }
  std::shared_ptr<torch::nn::Module> module;
  std::unique_ptr<Units> units;
};

TEST(ClipGradient, NormIsThatOfAllUnitsTogether) {
  const Fixture fixture;
  EXPECT_DOUBLE_EQ(gradient_norm(*fixture.units), std::sqrt(22.0));
}

TEST(ClipGradient, ScalesByTheSharedCoefficient) {
  const Fixture fixture;
  const Clipped clipped = clip_gradient(*fixture.units, 1.0, "student");
  const double norm = std::sqrt(22.0);
  EXPECT_DOUBLE_EQ(clipped.norm, norm);
  EXPECT_DOUBLE_EQ(clipped.coefficient, 1.0 / (norm + 1e-6));
  EXPECT_FLOAT_EQ(fixture.units->gradient(1)[3].item<float>(),
                  static_cast<float>(2.0 * clipped.coefficient));
}

TEST(ClipGradient, LeavesASmallGradientInEveryBit) {
  for (const double max_norm : {5.0, 0.0}) {
    const Fixture fixture;
    const at::Tensor before = fixture.units->gradient(1).clone();
    EXPECT_EQ(clip_gradient(*fixture.units, max_norm, "student").coefficient, 1.0);
    EXPECT_TRUE(is_equal(fixture.units->gradient(1), before));
  }
}

TEST(ClipGradient, SumsSquaresThatFp32CannotHold) {
  const Fixture fixture;
  fixture.units->gradient(0).fill_(1e30);
  fixture.units->gradient(1).zero_();
  EXPECT_NEAR(gradient_norm(*fixture.units) / 1e30, std::sqrt(6.0), 1e-6);
}

TEST(ClipGradient, StopsAtWhatIsNotFiniteAndNamesIt) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const Fixture fixture;
    fixture.units->gradient(1)[2] = bad;
    try {
      clip_gradient(*fixture.units, 1.0, "critic");
      FAIL() << "a gradient of " << bad << " passed";
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.code(), Code::kNonFinite);
      EXPECT_NE(std::string(failure.what()).find("critic"), std::string::npos);
      EXPECT_NE(std::string(failure.what()).find("second.bias"), std::string::npos);
    }
    EXPECT_EQ(fixture.units->gradient(0)[0].item<float>(), 1.0f);
  }
}

}  // namespace
}  // namespace fastwan::training
