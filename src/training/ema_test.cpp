#include "training/ema.h"

#include <cmath>
#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "models/parameters.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::training {
namespace {

using testing::is_equal;

struct Fixture {
  explicit Fixture(at::ScalarType compute) : module(std::make_shared<torch::nn::Module>()) {
    models::add_parameter(*module, "w", {5}, compute).fill_(1.0);
    units = std::make_unique<Units>(*module, one_unit(*module), UnitsOptions{.compute = compute},
                                    distributed::one_process());
  }
  std::shared_ptr<torch::nn::Module> module;
  std::unique_ptr<Units> units;
};

TEST(Ema, OfWeightsThatJumpOnceFallsAsThePowersOfItsDecay) {
  const Fixture fixture(at::kDouble);
  constexpr double kDecay = 0.95;
  Ema ema(*fixture.units, {.decay = kDecay, .start_step = 0});
  fixture.units->master(0).fill_(3.0);
  for (int n = 1; n <= 100; ++n) {
    ema.update(n);
    const double want = 3.0 - 2.0 * std::pow(kDecay, n);
    EXPECT_NEAR(ema.pieces()[0].values[4].item<double>(), want, 1e-13);
  }
}

TEST(Ema, TicksOnUpdatesAloneWhateverTheirStep) {
  const Fixture fixture(at::kDouble);
  Ema ema(*fixture.units, {.decay = 0.5, .start_step = 0});
  fixture.units->master(0).fill_(3.0);
  ema.update(5);
  ema.update(10);
  EXPECT_NEAR(ema.pieces()[0].values[0].item<double>(), 3.0 - 2.0 * 0.25, 1e-15);
}

TEST(Ema, StartsFromTheWeightsOfItsStartStep) {
  const Fixture fixture(at::kDouble);
  Ema ema(*fixture.units, {.decay = 0.9, .start_step = 3});
  fixture.units->master(0).fill_(2.0);
  ema.update(2);
  EXPECT_FALSE(ema.is_started());
  EXPECT_TRUE(ema.pieces().empty());
  fixture.units->master(0).fill_(7.0);
  ema.update(3);
  ASSERT_TRUE(ema.is_started());
  EXPECT_EQ(ema.pieces()[0].values[0].item<double>(), 7.0);
  fixture.units->master(0).fill_(17.0);
  ema.update(4);
  EXPECT_NEAR(ema.pieces()[0].values[0].item<double>(), 8.0, 1e-14);
}

TEST(Ema, ComputesWithTheAverageInAScopeAndLeavesNoTrace) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    const Fixture fixture(compute);
    Ema ema(*fixture.units, {.decay = 0.3, .start_step = 0});
    fixture.units->master(0).copy_(testing::golden_tensor("ema", "w", {5}));
    ema.update(1);
    const at::Tensor weights = fixture.units->master(0).clone();
    const at::Tensor average = ema.pieces()[0].values.clone();
    {
      const WithEma with_average(ema);
      const auto gathered = fixture.units->gather_all();
      EXPECT_TRUE(is_equal(fixture.module->named_parameters()["w"].detach(), average.to(compute)));
    }
    EXPECT_TRUE(is_equal(fixture.units->master(0), weights));
    EXPECT_TRUE(is_equal(ema.pieces()[0].values, average));
  }
}

}  // namespace
}  // namespace fastwan::training
