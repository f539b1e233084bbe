#include "training/schedule.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "ops/topk.h"

namespace fastwan::training {
namespace {

TEST(LrSchedule, CosineStaysAtItsFloor) {
  const LrSchedule s{.kind = LrKind::kCosineWithMinLr,
                     .warmup_steps = 100,
                     .total_steps = 4000,
                     .min_lr_ratio = 0.5};
  EXPECT_EQ(lr_factor(s, 0), 0.0);
  EXPECT_EQ(lr_factor(s, 50), 0.5);
  EXPECT_EQ(lr_factor(s, 100), 1.0);
  EXPECT_NEAR(lr_factor(s, 1075), 0.853553, 5e-7);
  EXPECT_GT(lr_factor(s, 2049), 0.5);
  for (const int64_t step : {2050, 3000, 4000, 5000}) {
    EXPECT_EQ(lr_factor(s, step), 0.5) << step;
  }
}

TEST(LrSchedule, EachKindAtItsCorners) {
  const auto at = [](LrKind kind, int64_t step) {
    return lr_factor({.kind = kind, .warmup_steps = 10, .total_steps = 110, .end_ratio = 0.1},
                     step);
  };
  EXPECT_EQ(at(LrKind::kConstant, 0), 1.0);
  EXPECT_EQ(at(LrKind::kConstant, 500), 1.0);
  for (const LrKind kind : {LrKind::kConstantWithWarmup, LrKind::kLinear, LrKind::kCosine,
                            LrKind::kPolynomial, LrKind::kCosineWithMinLr}) {
    EXPECT_EQ(at(kind, 0), 0.0);
    EXPECT_EQ(at(kind, 9), 0.9);
    EXPECT_EQ(at(kind, 10), 1.0);
  }
  EXPECT_EQ(at(LrKind::kConstantWithWarmup, 109), 1.0);
  EXPECT_DOUBLE_EQ(at(LrKind::kLinear, 60), 0.5);
  EXPECT_EQ(at(LrKind::kLinear, 110), 0.0);
  EXPECT_EQ(at(LrKind::kLinear, 111), 0.0);
  EXPECT_DOUBLE_EQ(at(LrKind::kCosine, 60), 0.5);
  EXPECT_NEAR(at(LrKind::kCosine, 110), 0.0, 1e-16);
  EXPECT_DOUBLE_EQ(at(LrKind::kPolynomial, 60), 0.55);
  EXPECT_DOUBLE_EQ(at(LrKind::kPolynomial, 110), 0.1);
  EXPECT_EQ(at(LrKind::kPolynomial, 111), 0.1);
}

TEST(LrSchedule, PowerAndCyclesAreThoseGiven) {
  EXPECT_DOUBLE_EQ(lr_factor({.kind = LrKind::kPolynomial, .total_steps = 100, .power = 2.0}, 50),
                   0.25);
  EXPECT_NEAR(lr_factor({.kind = LrKind::kCosine, .total_steps = 100, .num_cycles = 1.0}, 50), 0.0,
              1e-16);
}

TEST(LrSchedule, NamesAreTheRecipes) {
  EXPECT_EQ(lr_kind("constant"), LrKind::kConstant);
  EXPECT_EQ(lr_kind("cosine_with_min_lr"), LrKind::kCosineWithMinLr);
  EXPECT_THROW(lr_kind("cosin"), InvalidInput);
}

struct RampRow {
  int64_t step, topk;
};

TEST(SparsityRamp, TilesKeptAreThoseOfTheTable) {
  const SparsityRamp to_90{.sparsity = 0.9, .rate = 0.03, .interval = 50};
  for (const auto& [step, topk] :
       {RampRow{0, 455}, RampRow{49, 455}, RampRow{50, 442}, RampRow{500, 319}, RampRow{1000, 182},
        RampRow{1350, 87}, RampRow{1499, 60}, RampRow{1500, 46}, RampRow{4000, 46}}) {
    EXPECT_EQ(ops::vsa_topk(ramped_sparsity(to_90, step), 455), topk) << step;
  }
  const SparsityRamp to_80{.sparsity = 0.8, .rate = 0.03, .interval = 50};
  for (const auto& [step, topk] : {RampRow{50, 18}, RampRow{500, 13}, RampRow{1000, 8},
                                   RampRow{1349, 4}, RampRow{1350, 4}, RampRow{9999, 4}}) {
    EXPECT_EQ(ops::vsa_topk(ramped_sparsity(to_80, step), 18), topk) << step;
  }
}

TEST(SparsityRamp, EndsExactlyAtItsMaximumForEveryTwoDigitSparsity) {
  for (int percent = 1; percent < 100; ++percent) {
    const double sparsity = percent / 100.0;
    for (const double rate : {0.01, 0.03, 0.1}) {
      const SparsityRamp ramp{.sparsity = sparsity, .rate = rate, .interval = 1};
      EXPECT_EQ(ramped_sparsity(ramp, 1000), sparsity);
      for (int64_t step = 0; step < 110; ++step) {
        ASSERT_LE(ramped_sparsity(ramp, step), sparsity + 1e-12) << percent << " " << rate;
        ASSERT_LE(ramped_sparsity(ramp, step), ramped_sparsity(ramp, step + 1) + 1e-12);
      }
    }
  }
  EXPECT_EQ(ramped_sparsity({.sparsity = 0.8, .rate = 0.0}, 0), 0.8);
}

}  // namespace
}  // namespace fastwan::training
