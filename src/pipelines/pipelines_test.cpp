#include <chrono>
#include <thread>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/files.h"
#include "models/checkpoint.h"
#include "pipelines/decode.h"
#include "pipelines/device.h"
#include "pipelines/first_frame.h"
#include "pipelines/memory_plan.h"
#include "pipelines/noise_file.h"
#include "pipelines/stage_clock.h"
#include "support/compare.h"

namespace fastwan::pipelines {
namespace {

Code code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Failure& failure) {
    return failure.code();
  }
  return Code::kInternal;
}

TEST(Device, WordsThatNameNoDeviceAreRefused) {
  for (const char* word : {"tpu", "", "cuda:", "cuda:-1", "cuda:x", "CPU"}) {
    EXPECT_EQ(code_of([&] { resolve_device(word); }), Code::kBadValue) << word;
  }
  EXPECT_TRUE(resolve_device("cpu").is_cpu());
}

TEST(Device, AGpuThatIsNotThereIsNamed) {
  EXPECT_EQ(code_of([] { resolve_device("cuda:77"); }), Code::kNoGpu);
}

TEST(MemoryPlan, TakesTheFirstModeThatFits) {
  const WeightBytes weights{.text_encoder = 50, .transformer = 30, .transformer_2 = 30, .vae = 5};
  constexpr int64_t kActivations = 10;
  const auto mode = [&](int64_t free_bytes, bool is_cpu) {
    return choose_offload(weights, kActivations, free_bytes, is_cpu);
  };
  EXPECT_EQ(mode(75, false), config::Offload::kNone);  // 30 + 30 + 5, and 10
  EXPECT_EQ(mode(74, false), config::Offload::kStage);
  EXPECT_EQ(mode(60, false), config::Offload::kStage);  // 50, and 10
  EXPECT_EQ(mode(59, false), config::Offload::kLayer);
  EXPECT_EQ(mode(59, true), config::Offload::kStage);  // blocks are in host memory anyway
}

TEST(Frames, AreTruncatedNotRounded) {
  at::Tensor frames = at::zeros({1, 3, 1, 1, 4});  // [1, 3, f, P, Q]
  frames.select(4, 0).fill_(-1.5);                 // beyond the range
  frames.select(4, 1).fill_(2.0 * 200.9 / 255.0 - 1.0);
  frames.select(4, 2).fill_(1.0);
  frames.select(4, 3).fill_(2.0 * 0.99 / 255.0 - 1.0);
  const at::Tensor rgb = to_rgb(to_unit_range(frames));  // [f, P, Q, 3]
  EXPECT_EQ(rgb.sizes(), at::IntArrayRef({1, 1, 4, 3}));
  EXPECT_EQ(rgb[0][0][0][0].item<int>(), 0);
  EXPECT_EQ(rgb[0][0][1][1].item<int>(), 200);
  EXPECT_EQ(rgb[0][0][2][2].item<int>(), 255);
  EXPECT_EQ(rgb[0][0][3][0].item<int>(), 0);
}

TEST(FirstFrame, IsPutBackAndItsTokensStandAtTimeZero) {
  const at::Tensor x = at::ones({1, 2, 3, 4, 6});
  const at::Tensor out = impose_first_frame(x, at::zeros({1, 2, 1, 4, 6}));
  EXPECT_EQ(out.narrow(2, 0, 1).abs().sum().item<float>(), 0);
  EXPECT_EQ(out.narrow(2, 1, 2).sum().item<float>(), 2 * 2 * 4 * 6);
  const ops::AttentionPlan plan = ops::plan_tiles(3, 2, 3, at::kCPU);
  const at::Tensor times = first_frame_timesteps(757, plan, at::kCPU);  // [1, S]
  EXPECT_EQ(times.sizes(), at::IntArrayRef({1, 18}));
  EXPECT_EQ(times.narrow(1, 0, 6).abs().sum().item<float>(), 0);
  EXPECT_EQ(times.narrow(1, 6, 12).min().item<float>(), 757);
}

class NoiseFile : public ::testing::Test {
 protected:
  std::unique_ptr<diffusion::NoiseSource> open(const std::vector<models::NamedTensor>& tensors) {
    const Path file = folder_.where() / "noise.safetensors";
    models::save_tensors(file, tensors);
    return noise_from_file(file, kShape, diffusion::philox_noise(7, kShape),
                           [this](const std::string& note) { notes_.push_back(note); });
  }

  static constexpr diffusion::NoiseShape kShape{2, 3, 4, 6};
  TempFolder folder_;
  std::vector<std::string> notes_;
};

TEST_F(NoiseFile, WhatTheFileHasIsUsedAndWhatItLacksIsDrawnAndSaid) {
  const at::Tensor given = at::rand({1, 2, 3, 4, 6});
  const auto noise = open({{"latents", given}, {"renoise_2", given * 2}});
  const auto drawn = diffusion::philox_noise(7, kShape);
  drawn->initial();
  EXPECT_TRUE(testing::is_equal(noise->initial(), given));
  EXPECT_TRUE(testing::is_equal(noise->renoise(1), drawn->renoise(1)));
  EXPECT_TRUE(testing::is_equal(noise->renoise(2), given * 2));
  ASSERT_EQ(notes_.size(), 1U);
  EXPECT_NE(notes_[0].find("renoise_1"), std::string::npos);
}

TEST_F(NoiseFile, AnotherShapeIntegersAndNaNAreRefused) {
  EXPECT_EQ(code_of([&] {
              open({{"latents", at::rand({1, 2, 3, 4, 5})}})->initial();
            }),
            Code::kBadTensor);
  EXPECT_EQ(code_of([&] {
              open({{"latents", at::ones({1, 2, 3, 4, 6}, at::kInt)}})->initial();
            }),
            Code::kBadTensor);
  const at::Tensor bad = at::full({1, 2, 3, 4, 6}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(code_of([&] { open({{"latents", bad}})->initial(); }), Code::kBadTensor);
}

TEST(StageClock, TimeOfANestedStageIsNotCountedTwice) {
  const auto begin = std::chrono::steady_clock::now();
  StageClock clock;
  clock.enter("denoise");
  clock.enter("load");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  clock.go_back();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto seconds = clock.seconds();
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
  ASSERT_EQ(seconds.size(), 2U);
  EXPECT_EQ(seconds[0].first, "denoise");
  EXPECT_EQ(seconds[1].first, "load");
  EXPECT_GE(seconds[0].second, 0.02);
  EXPECT_GE(seconds[1].second, 0.02);
  EXPECT_LE(seconds[0].second + seconds[1].second, whole.count());
}

TEST(Precisions, FollowDeviceCompatAndFlags) {
  config::Generate settings;
  settings.compat.set(config::Compat::kFastvideo, config::Origin::kFlag);
  EXPECT_EQ(choose_precisions(settings, at::kCPU).transformer.compute, at::kFloat);
  EXPECT_FALSE(choose_precisions(settings, at::kCPU).text_encoder_held);
  const Precisions gpu = choose_precisions(settings, at::Device(at::kCUDA, 0));
  EXPECT_EQ(gpu.state, at::kBFloat16);
  EXPECT_EQ(gpu.vae, at::kBFloat16);
  EXPECT_EQ(gpu.latent_form, models::LatentForm::kFastVideo);
  settings.compat.set(config::Compat::kDiffusers, config::Origin::kFlag);
  EXPECT_EQ(choose_precisions(settings, at::Device(at::kCUDA, 0)).vae, at::kFloat);
  settings.dit_precision.set(config::Precision::kBf16, config::Origin::kFlag);
  const Precisions half = choose_precisions(settings, at::kCPU);
  EXPECT_EQ(half.transformer.compute, at::kBFloat16);
  EXPECT_EQ(half.transformer.kept, at::kFloat);
  EXPECT_EQ(half.state, at::kFloat);
}

}  // namespace
}  // namespace fastwan::pipelines
