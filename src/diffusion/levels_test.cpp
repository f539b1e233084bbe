#include "diffusion/levels.h"

#include <functional>
#include <limits>
#include <numeric>

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::diffusion {
namespace {

using testing::Golden;
using testing::is_equal;

at::Tensor sigmas(const std::vector<NoiseLevel>& levels) {
  std::vector<double> values;
  for (const NoiseLevel& level : levels) {
    values.push_back(level.sigma);
  }
  return at::tensor(values, at::kDouble);
}

at::Tensor timesteps(const std::vector<NoiseLevel>& levels) {
  std::vector<double> values;
  for (const NoiseLevel& level : levels) {
    values.push_back(level.timestep);
  }
  return at::tensor(values, at::kDouble);
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kBadValue);
    return error.what();
  }
  return "accepted";
}

TEST(FewStepLevels, FindTheNearestTableEntryOfEveryTimestep) {
  const Golden golden("diffusion", "levels");
  std::vector<int64_t> all(1000);
  std::iota(all.rbegin(), all.rend(), 1);  // 1000 ... 1
  for (const int shift : {8, 5, 3}) {
    const auto levels = few_step_levels(all, shift);
    const at::Tensor want = golden.tensor(str("few_step.s", shift)).to(at::kDouble);
    EXPECT_TRUE(is_equal(sigmas(levels), want)) << "shift " << shift;
    EXPECT_EQ(levels.front().timestep, 1000.0);
    EXPECT_EQ(levels.back().timestep, 1.0);
  }
}

// The steps that FastWan was distilled for, and the shift FastVideo hard-codes.
TEST(FewStepLevels, AreThoseOfTheReleasedModels) {
  const auto levels = few_step_levels({1000, 757, 522}, 8.0);
  ASSERT_EQ(levels.size(), 3U);
  EXPECT_EQ(levels[0].sigma, 1.0F);
  EXPECT_EQ(levels[1].sigma, 0.7567567229F);
  EXPECT_EQ(levels[2].sigma, 0.5217391253F);
  EXPECT_EQ(levels[1].timestep, 757.0);  // verbatim, not the table's 756.757
  EXPECT_EQ(few_step_levels({757}, 5.0)[0].sigma, 0.7570978403F);
}

// The list of Self-Forcing at its shift, and one at FastWan's: what a student is trained at.
TEST(FewStepLevels, OfBaseTimestepsGoThroughTheShift) {
  const auto five = warped_few_step_levels({1000, 750, 500, 250}, 5.0);
  const std::vector<double> wanted = {1000, 937.5, 2500.0 / 3, 625};
  ASSERT_EQ(five.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(five[i].timestep, wanted[i], 1e-4);  // fp32 in the reference
    EXPECT_NEAR(five[i].sigma, wanted[i] / 1000, 1e-7);
  }
  EXPECT_NEAR(warped_few_step_levels({500}, 8.0)[0].timestep, 8000.0 / 9, 1e-4);
  EXPECT_EQ(warped_few_step_levels({757}, 1.0)[0].timestep, 757.0);  // no shift, no move
  EXPECT_NE(refusal([] {
              warped_few_step_levels({500, 757}, 8.0);
            }).find("must be whole numbers that fall"),
            std::string::npos);
}

TEST(FewStepLevels, RefuseListsThatDoNotFallWithinTheTable) {
  using List = std::vector<int64_t>;
  for (const List& list :
       {List{}, List{1001, 500}, List{500, 0}, List{1000, 1000}, List{500, 757}, List{-1}}) {
    const std::string message = refusal([&] { few_step_levels(list, 8.0); });
    EXPECT_NE(message.find("--dmd-denoising-steps must be whole numbers that fall"),
              std::string::npos)
        << message;
  }
  EXPECT_NE(refusal([] {
              few_step_levels({500, 757}, 8.0);
            }).find("got 500,757"),
            std::string::npos);
  EXPECT_EQ(refusal([] { few_step_levels({1}, 8.0); }), "accepted");
}

TEST(Levels, RefuseAShiftOrANumberOfStepsThatMeansNothing) {
  for (const double shift : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN()}) {
    const auto refuses = [&](const std::function<void()>& call) {
      return refusal(call).find("flow shift must be a number above 0") != std::string::npos;
    };
    EXPECT_TRUE(refuses([&] { few_step_levels({1000}, shift); }));
    EXPECT_TRUE(refuses([&] { unipc_levels(4, shift, SigmaSchedule::kWan); }));
    EXPECT_TRUE(refuses([&] { euler_levels(4, shift); }));
  }
  EXPECT_EQ(refusal([] { unipc_levels(0, 5.0, SigmaSchedule::kWan); }),
            "the number of steps must be at least 1, got 0");
}

TEST(UnipcLevels, EqualDiffusersInAllThreeSchedules) {
  const Golden golden("diffusion", "levels");
  const std::vector<std::pair<SigmaSchedule, std::string>> schedules = {
      {SigmaSchedule::kDiffusers, "diffusers"},
      {SigmaSchedule::kFastVideo, "fastvideo"},
      {SigmaSchedule::kWan, "wan"}};
  for (const auto& [schedule, name] : schedules) {
    for (const int steps : {1, 2, 3, 4, 15, 50}) {
      for (const int shift : {1, 3, 5, 8, 12}) {
        const std::string key = str("unipc.", name, ".n", steps, ".s", shift);
        const auto levels = unipc_levels(steps, shift, schedule);
        EXPECT_TRUE(is_equal(sigmas(levels), golden.tensor(key + ".sigma").to(at::kDouble))) << key;
        EXPECT_TRUE(is_equal(timesteps(levels), golden.tensor(key + ".timestep").to(at::kDouble)))
            << key;
      }
    }
  }
}

TEST(UnipcLevels, DifferBetweenTheSchedules) {
  const auto first = [](SigmaSchedule schedule) {
    return unipc_levels(50, 5.0, schedule)[0].sigma;
  };
  EXPECT_FLOAT_EQ(static_cast<float>(first(SigmaSchedule::kDiffusers)), 0.999999F);
  EXPECT_FLOAT_EQ(static_cast<float>(first(SigmaSchedule::kFastVideo)), 0.9999599F);
  EXPECT_FLOAT_EQ(static_cast<float>(first(SigmaSchedule::kWan)), 0.9997998F);
}

TEST(EulerLevels, EqualDiffusers) {
  const Golden golden("diffusion", "levels");
  for (const int steps : {1, 2, 5, 50}) {
    for (const int shift : {1, 5, 7}) {
      const std::string key = str("euler.n", steps, ".s", shift);
      const auto levels = euler_levels(steps, shift);
      EXPECT_TRUE(is_equal(sigmas(levels), golden.tensor(key + ".sigma").to(at::kDouble))) << key;
      EXPECT_TRUE(is_equal(timesteps(levels), golden.tensor(key + ".timestep").to(at::kDouble)))
          << key;
    }
  }
}

}  // namespace
}  // namespace fastwan::diffusion
