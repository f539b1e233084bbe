#include "eval/similarity.h"

#include <cmath>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "eval/temporal.h"
#include "support/golden.h"

namespace fastwan::eval {
namespace {

at::Tensor video_a() {
  return testing::golden_tensor("similarity", "a", {2, 3, 17, 19}, 0.5, 0.2).clamp(0, 1);
}
at::Tensor video_b() {
  return (video_a() + testing::golden_tensor("similarity", "noise", {2, 3, 17, 19}, 0.02, 0.1))
      .clamp(0, 1);
}
double wanted(const std::string& name) {
  return testing::Golden("eval", "similarity").tensor(name).item<double>();
}

TEST(Similarity, EqualsNumpysLoops) {
  EXPECT_NEAR(mse(video_a(), video_b()), wanted("mse"), 1e-12);
  EXPECT_NEAR(psnr(video_a(), video_b()), wanted("psnr"), 1e-9);
  EXPECT_NEAR(ssim(video_a(), video_b()), wanted("ssim"), 1e-10);
}

TEST(Similarity, OfConstantPicturesIsItsClosedForm) {
  const at::Tensor dark = at::full({2, 3, 16, 16}, 0.25), light = at::full({2, 3, 16, 16}, 0.75);
  EXPECT_NEAR(mse(dark, light), 0.25, 1e-12);
  EXPECT_NEAR(psnr(dark, light), 10 * std::log10(4.0), 1e-9);
  const double c1 = 1e-4;
  EXPECT_NEAR(ssim(dark, light), (2 * 0.25 * 0.75 + c1) / (0.0625 + 0.5625 + c1), 1e-9);
}

TEST(Similarity, OfEqualVideosIsPerfect) {
  EXPECT_EQ(mse(video_a(), video_a()), 0);
  EXPECT_TRUE(std::isinf(psnr(video_a(), video_a())));
  EXPECT_NEAR(ssim(video_a(), video_a()), 1, 1e-12);
}

TEST(Similarity, RefusesOtherShapes) {
  EXPECT_THROW(mse(video_a(), video_a().slice(0, 0, 1)), InvalidInput);
  EXPECT_THROW(ssim(at::zeros({1, 3, 10, 16}), at::zeros({1, 3, 10, 16})), InvalidInput);
  EXPECT_NO_THROW(ssim(at::zeros({1, 3, 11, 11}), at::zeros({1, 3, 11, 11})));
}

TEST(Flicker, IsTheSecondDifference) {
  at::Tensor linear = at::zeros({6, 3, 4, 4});
  at::Tensor blinking = at::zeros({6, 3, 4, 4});
  for (int64_t frame = 0; frame < 6; ++frame) {
    linear[frame].fill_(0.1 * static_cast<double>(frame));
    blinking[frame].fill_(frame % 2 == 0 ? 0.5 : 0.4);
  }
  EXPECT_NEAR(flicker(linear), 0, 1e-7);
  EXPECT_NEAR(flicker(blinking), 0.2, 1e-6);
  at::Tensor moving = at::zeros({6, 4, 4}, at::kBool);
  EXPECT_NEAR(still_flicker(blinking, moving), 0.2, 1e-6);
  moving.fill_(true);
  EXPECT_EQ(still_flicker(blinking, moving), 0);
  EXPECT_THROW(flicker(at::zeros({2, 3, 4, 4})), InvalidInput);
  EXPECT_NO_THROW(flicker(at::zeros({3, 3, 4, 4})));
}

TEST(Flicker, LeavesOutWhereSomethingMovesInAnyOfThreeFrames) {
  at::Tensor frames = at::zeros({3, 3, 2, 2});
  frames[1].select(1, 0).select(1, 0).fill_(1.0);  // pixel (0, 0) flashes: change 2
  frames[1].select(1, 1).select(1, 1).fill_(0.5);  // pixel (1, 1): change 1
  at::Tensor moving = at::zeros({3, 2, 2}, at::kBool);
  EXPECT_NEAR(still_flicker(frames, moving), 3.0 / 4, 1e-6);
  moving[2][0][0] = true;
  EXPECT_NEAR(still_flicker(frames, moving), 1.0 / 3, 1e-6);
}

}  // namespace
}  // namespace fastwan::eval
