#include "diffusion/noise.h"

#include <thread>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "base/text.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::diffusion {
namespace {

using testing::Golden;
using testing::is_equal;

constexpr NoiseShape kShape{.channels = 16, .frames = 3, .height = 12, .width = 20};

TEST(PhiloxNoise, IsTheSameOnAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor alone = philox_noise(1024, kShape)->initial();
  at::set_num_threads(3);
  const at::Tensor together = philox_noise(1024, kShape)->initial();
  at::set_num_threads(threads);
  EXPECT_TRUE(is_equal(together, alone));
}

TEST(PhiloxNoise, IsTheStreamWhateverWayItIsSplit) {
  const at::Tensor whole = philox_noise(7, kShape)->renoise(2);
  at::Tensor parts = at::empty(whole.sizes(), at::kFloat);
  const std::span<float> values(parts.mutable_data_ptr<float>(),
                                static_cast<std::size_t>(parts.numel()));
  const Philox philox(7, Stream::kRenoise, /*step=*/2, /*slot=*/0);
  constexpr std::size_t kCut = 4321;  // within a group of four
  std::thread tail([&] { philox.fill_normal(kCut, values.subspan(kCut)); });
  philox.fill_normal(0, values.first(kCut));
  tail.join();
  EXPECT_TRUE(is_equal(parts, whole));
}

TEST(PhiloxNoise, DependsOnSeedAndStepAndNotOnTheOrderOfCalls) {
  const auto source = philox_noise(7, kShape);
  const at::Tensor second = source->renoise(2);
  const at::Tensor initial = source->initial();
  EXPECT_TRUE(is_equal(source->initial(), initial));
  EXPECT_TRUE(is_equal(philox_noise(7, kShape)->renoise(2), second));
  EXPECT_FALSE(at::equal(source->renoise(1), second));
  EXPECT_FALSE(at::equal(initial, source->renoise(0)));
  EXPECT_FALSE(at::equal(philox_noise(8, kShape)->initial(), initial));
}

TEST(PhiloxNoise, IsStandardNormal) {
  const at::Tensor noise = philox_noise(3, kShape)->initial().to(at::kDouble);
  const auto count = static_cast<double>(noise.numel());  // 11,520
  // Five standard errors of a mean, a variance and a fourth moment of normal numbers.
  EXPECT_NEAR(noise.mean().item<double>(), 0.0, 5.0 / std::sqrt(count));
  EXPECT_NEAR(noise.square().mean().item<double>(), 1.0, 5.0 * std::sqrt(2.0 / count));
  EXPECT_NEAR(noise.pow(4).mean().item<double>(), 3.0, 5.0 * std::sqrt(96.0 / count));
}

TEST(TorchNoise, DrawsAsTorchDoesInBothOrders) {
  const Golden golden("diffusion", "noise");
  const double widest = golden.manifest().at("tolerance").get<double>();
  const std::vector<NoiseShape> shapes = {
      {16, 1, 1, 1}, {17, 1, 1, 1}, {4, 2, 2, 4}, {4, 3, 5, 6}, {10, 5, 4, 5}};
  for (const int64_t seed : {1024, 7}) {
    for (const NoiseShape& s : shapes) {
      for (const auto& [order, name] : {std::pair{DrawOrder::kChannelsFirst, "channels"},
                                        std::pair{DrawOrder::kFramesFirst, "frames"}}) {
        const std::string key =
            str(seed, ".", s.channels, "x", s.frames, "x", s.height, "x", s.width, ".", name, ".");
        const auto source = torch_noise(seed, s, order, at::kBFloat16);
        const at::Tensor off = at::abs(source->initial() - golden.tensor(key + "0"));
        EXPECT_LE(off.max().item<double>(), widest) << key;
        EXPECT_TRUE(is_equal(source->renoise(1), golden.tensor(key + "1"))) << key;
        EXPECT_TRUE(is_equal(source->renoise(2), golden.tensor(key + "2"))) << key;
      }
    }
  }
}

// Seed 1024, 64 elements. The order of drawing changes the numbers' places.
TEST(TorchNoise, GivesTheNumbersOfTheReference) {
  constexpr NoiseShape kSmall{.channels = 4, .frames = 2, .height = 2, .width = 4};
  const at::Tensor fp32 =
      torch_noise(1024, kSmall, DrawOrder::kChannelsFirst, at::kFloat)->initial().view({-1});
  EXPECT_NEAR(fp32[0].item<double>(), -1.16197407, 4e-6);
  EXPECT_NEAR(fp32[3].item<double>(), 2.26984048, 4e-6);
  const at::Tensor bf16 =
      torch_noise(1024, kSmall, DrawOrder::kChannelsFirst, at::kBFloat16)->renoise(1).view({-1});
  EXPECT_EQ(bf16[0].item<double>(), -0.5078125);
  EXPECT_EQ(bf16[3].item<double>(), -0.7421875);
  const auto framed = torch_noise(1024, kSmall, DrawOrder::kFramesFirst, at::kFloat)->initial();
  EXPECT_FALSE(at::equal(framed.view({-1}), fp32));
}

}  // namespace
}  // namespace fastwan::diffusion
