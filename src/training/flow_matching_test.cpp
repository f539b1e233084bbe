#include "training/flow_matching.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::training {
namespace {

using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;

constexpr testing::Tolerance kFp64{.of_range = 1e-14, .relative_l2 = 1e-14};

at::Tensor wide(const char* name, at::IntArrayRef shape) {
  return golden_tensor("flow_matching", name, shape).to(at::kDouble);
}

std::vector<int64_t> slots_from(int64_t first, std::size_t count) {
  std::vector<int64_t> slots(count);
  std::iota(slots.begin(), slots.end(), first);
  return slots;
}

TEST(FlowMatchingDensity, ShiftKeepsTheEndsAndInvertsWithItsReciprocal) {
  for (const double shift : {1.0, 3.0, 5.0, 8.0}) {
    EXPECT_EQ(shifted(0.0, shift), 0.0);
    EXPECT_DOUBLE_EQ(shifted(1.0, shift), 1.0);
    EXPECT_NEAR(shifted(shifted(0.37, shift), 1 / shift), 0.37, 1e-15);
  }
  EXPECT_DOUBLE_EQ(shifted(0.5, 3.0), 0.75);
}

TEST(FlowMatchingDensity, ModeAndLogitNormalAreTheirClosedForms) {
  for (const double scale : {1.0, 1.29}) {
    EXPECT_DOUBLE_EQ(mode_density(0.0, scale), 1.0);
    EXPECT_NEAR(mode_density(0.5, scale), 0.5, 1e-15);
    EXPECT_NEAR(mode_density(1.0, scale), 0.0, 1e-15);
  }
  EXPECT_DOUBLE_EQ(mode_density(0.25, 0.0), 0.75);
  const TimestepLaw law{.density = Density::kLogitNormal, .logit_mean = 0.5, .logit_std = 2.0};
  EXPECT_DOUBLE_EQ(logit_normal(-0.25, law), 0.5);
  EXPECT_NEAR(std::log(logit_normal(1.0, law) / (1 - logit_normal(1.0, law))), 2.5, 1e-14);
}

// 20,000 draws: a share s has a standard error of sqrt(s (1 - s) / 20000) < 0.0036; 4 of them.
TEST(FlowMatchingDensity, DrawsFollowTheirLaw) {
  const std::vector<int64_t> slots = slots_from(0, 20000);
  const auto share_below = [&](const TimestepLaw& law, double u) {
    const std::vector<double> values = draw_u(law, {.seed = 3, .step = 5}, slots);
    return static_cast<double>(
               std::count_if(values.begin(), values.end(), [u](double v) { return v < u; })) /
           static_cast<double>(values.size());
  };
  EXPECT_NEAR(share_below({}, 0.3), 0.3, 0.0144);
  const TimestepLaw normal{.density = Density::kLogitNormal, .logit_mean = 1.0, .logit_std = 0.5};
  EXPECT_NEAR(share_below(normal, logit_normal(0.5, normal)), 0.691462, 0.0144);  // Phi(1/2)
  const TimestepLaw mode{.density = Density::kMode};
  // The map falls, so u < mode(w) where the uniform number is above w.
  EXPECT_NEAR(share_below(mode, mode_density(0.8, mode.mode_scale)), 0.2, 0.0144);
}

TEST(FlowMatchingDensity, TheGridHoldsEveryLevelOnceAndTheNoisiestFirst) {
  const TimestepLaw law{.shift = 5, .grid = 1000};
  for (const int64_t k : {0, 1, 499, 999}) {
    const double want = shifted(static_cast<double>(1000 - k) / 1000, 5);
    EXPECT_DOUBLE_EQ(sigma_of((static_cast<double>(k) + 0.5) / 1000, law), want) << k;
  }
  EXPECT_EQ(sigma_of(0.0, law), 1.0);
  EXPECT_DOUBLE_EQ(sigma_of(1.0, law), shifted(0.001, 5)) << "u = 1 takes the last level";
  EXPECT_DOUBLE_EQ(sigma_of(0.25, {.shift = 5}), shifted(0.75, 5));
}

TEST(FlowMatchingDensity, TheLowNoiseExpertSeesLevelsBelowTheBoundaryAndItsShareOfIterations) {
  for (const double u : {0.0, 0.4, 1.0}) {
    EXPECT_LE(sigma_of(restricted_to_low_noise(u, 0.875), {}), 0.875);
  }
  EXPECT_DOUBLE_EQ(sigma_of(restricted_to_low_noise(0.0, 0.875), {}), 0.875);
  int64_t count = 0;
  for (int64_t step = 1; step <= 4000; ++step) {
    count += trains_low_noise(1000, step, 0.875) ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(count) / 4000, 0.875, 4 * std::sqrt(0.875 * 0.125 / 4000));
}

TEST(FlowMatchingLoss, ContentAndNoiseComeBackFromTheTrueVelocity) {
  const at::Tensor x0 = wide("x0", {3, 2, 1, 4, 5}), noise = wide("noise", {3, 2, 1, 4, 5});
  const at::Tensor sigma = as_sigma(std::vector<double>{0.02, 0.5, 1.0});
  const at::Tensor x = noised(x0, noise, sigma);
  EXPECT_TRUE(is_close(predicted_x0(x, noise - x0, sigma), x0, kFp64));
  EXPECT_TRUE(is_close(x + (1 - per_sample(sigma, x)) * (noise - x0), noise, kFp64));
  EXPECT_TRUE(is_equal(x[2], noise[2])) << "sigma 1 is pure noise";
  EXPECT_TRUE(is_equal(timestep_of(sigma, x), 1000 * sigma));
  EXPECT_EQ(timestep_of(sigma, x0.to(at::kBFloat16)).scalar_type(), at::kFloat)
      << "757 is no bf16 number";
}

TEST(FlowMatchingLoss, IsZeroForTheTrueVelocityAndAMeanOverEachSample) {
  const at::Tensor x0 = wide("x0", {3, 2, 1, 4, 5}), noise = wide("noise", {3, 2, 1, 4, 5});
  EXPECT_TRUE(is_equal(flow_loss(noise - x0, x0, noise), at::zeros({3}, at::kDouble)));
  const at::Tensor velocity = wide("v", {3, 2, 1, 4, 5});
  const at::Tensor loss = flow_loss(velocity, x0, noise);
  for (int64_t b = 0; b < 3; ++b) {
    const at::Tensor error = velocity[b] - (noise[b] - x0[b]);
    EXPECT_NEAR(loss[b].item<double>(), (error * error).mean().item<double>(), 1e-14);
  }
}

TEST(FlowMatchingLoss, PreconditionedIsSigmaSquaredTimesThePlainOne) {
  const at::Tensor x0 = wide("x0", {3, 2, 1, 4, 5}), noise = wide("noise", {3, 2, 1, 4, 5});
  const at::Tensor velocity = wide("v", {3, 2, 1, 4, 5});
  const at::Tensor sigma = as_sigma(std::vector<double>{0.02, 0.5, 1.0});
  const at::Tensor x = noised(x0, noise, sigma);
  EXPECT_TRUE(is_close(preconditioned_loss(velocity, x, x0, sigma),
                       sigma * sigma * flow_loss(velocity, x0, noise),
                       {.of_range = 1e-13, .relative_l2 = 1e-13}));
}

TEST(CaptionDropout, TakesItsShareBySlotAndStepAndPutsTheUnconditionalTextThere) {
  const std::vector<int64_t> slots = slots_from(0, 4000);
  const at::Tensor text = golden_tensor("dropout", "text", {4000, 3, 2});
  const at::Tensor empty = golden_tensor("dropout", "empty", {2, 2});
  const DrawKey key{.seed = 1, .step = 9};
  const at::Tensor got = with_caption_dropout(text, empty, 0.1, key, slots);
  const at::Tensor is_kept = got.eq(text).flatten(1).all(1);  // [4000]
  const int64_t dropped = 4000 - is_kept.sum().item<int64_t>();
  EXPECT_NEAR(static_cast<double>(dropped) / 4000, 0.1, 4 * std::sqrt(0.09 / 4000));
  const auto first = is_kept.to(at::kInt).argmin().item<int64_t>();
  EXPECT_TRUE(is_equal(got[first].narrow(0, 0, 2), empty));
  EXPECT_TRUE(is_equal(got[first][2], at::zeros({2}))) << "rows behind its end are zero";

  // A sample's draw is its slot's, in whatever batch it comes.
  const std::vector<int64_t> part = slots_from(1000, 50);
  EXPECT_TRUE(is_equal(with_caption_dropout(text.narrow(0, 1000, 50), empty, 0.1, key, part),
                       got.narrow(0, 1000, 50)));
  EXPECT_FALSE(
      is_equal(with_caption_dropout(text, empty, 0.1, {.seed = 1, .step = 10}, slots), got))
      << "another iteration drops others";
  EXPECT_TRUE(is_equal(with_caption_dropout(text, empty, 0.0, key, slots), text));
  EXPECT_TRUE(is_equal(with_caption_dropout(text, empty, 1.0, key, slots),
                       unconditional_rows(empty, text)));
}

TEST(CaptionDropout, AnUnconditionalTextOfAnotherWidthIsRefused) {
  EXPECT_THROW(unconditional_rows(at::zeros({2, 3}), at::zeros({1, 4, 2})), InvalidInput);
  EXPECT_EQ(unconditional_rows(at::zeros({9, 2}), at::zeros({1, 4, 2})).size(1), 4);
}

}  // namespace
}  // namespace fastwan::training
