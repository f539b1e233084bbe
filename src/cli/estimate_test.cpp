#include "cli/estimate.h"

#include <gtest/gtest.h>

#include "cli/request.h"
#include "cli/test_model.h"

namespace fastwan::cli {
namespace {

using config::Origin;

class Estimates : public ::testing::Test {
 protected:
  Estimates() { settings_.model_path.set(model_.where().string(), Origin::kFlag); }
  Estimate run(bool on_gpu = false) {
    const layout::ModelFolder folder = open_model(settings_);
    resolve_request(settings_, folder);
    return estimate(settings_, folder, on_gpu);
  }
  static const StageCost* stage(const Estimate& it, const char* name) {
    for (const StageCost& stage : it.stages) {
      if (stage.name == name) {
        return &stage;
      }
    }
    return nullptr;
  }
  TestModel model_;
  config::Generate settings_;
};

TEST_F(Estimates, CountsTokensTilesAndForwards) {
  const Estimate it = run();  // 64x32, 9 frames: latents 3 x 4 x 8, patches 3 x 2 x 4
  EXPECT_EQ(it.latent.frames, 3);
  EXPECT_EQ(it.grid.num_tokens(), 24);
  EXPECT_EQ(it.grid.num_tiles(), 1);
  EXPECT_EQ(it.topk, 1);
  EXPECT_EQ(it.num_forwards, 3);
  EXPECT_EQ(it.text_tokens, 32) << "the tokenizer's own limit";
  ASSERT_EQ(it.stages.size(), 3u);
  double sum = 0;
  for (const StageCost& cost : it.stages) {
    EXPECT_GT(cost.work, 0) << cost.name;
    sum += cost.work;
  }
  EXPECT_EQ(it.total_work(), sum);
}

TEST_F(Estimates, WeightsAreCountedAsTheyAreHeld) {
  const Estimate cpu = run(/*on_gpu=*/false);
  EXPECT_EQ(cpu.components[0].held_as, "as stored");
  EXPECT_EQ(cpu.components[0].bytes, static_cast<double>(cpu.components[0].file_bytes));
  EXPECT_EQ(cpu.components[1].bytes, 4.0 * static_cast<double>(cpu.components[1].parameters));
  const Estimate gpu = run(/*on_gpu=*/true);
  EXPECT_EQ(gpu.components[1].bytes, 2.0 * static_cast<double>(gpu.components[1].parameters));
  EXPECT_LT(cpu.components[2].parameters * 2, cpu.components[2].file_bytes)
      << "the VAE's encoder is not loaded for text";
  settings_.dit_precision.set(config::Precision::kBf16, Origin::kFlag);
  EXPECT_EQ(run().components[1].held_as, "bf16");
}

TEST_F(Estimates, StagesThatAreSkippedCostNothing) {
  settings_.prompt_embeds.set("e.safetensors", Origin::kFlag);
  EXPECT_EQ(stage(run(), "text"), nullptr);
  settings_.load_latents.set("l.safetensors", Origin::kFlag);
  const Estimate it = run();
  EXPECT_EQ(stage(it, "denoise"), nullptr);
  EXPECT_NE(stage(it, "decode"), nullptr);
  EXPECT_EQ(it.components.size(), 1u);
}

TEST_F(Estimates, GuidanceDoublesTextAndForwards) {
  settings_.sampler.set(config::Sampler::kUnipc, Origin::kFlag);
  settings_.steps.set(10, Origin::kFlag);
  settings_.guidance_scale.set(1, Origin::kFlag);
  const Estimate once = run();
  settings_.guidance_scale.set(5, Origin::kFlag);
  const Estimate twice = run();
  EXPECT_EQ(once.num_forwards, 10);
  EXPECT_EQ(twice.num_forwards, 20);
  EXPECT_DOUBLE_EQ(twice.total_work() - stage(twice, "decode")->work,
                   2 * (once.total_work() - stage(once, "decode")->work));
}

TEST_F(Estimates, EachStepOfOffloadNeedsLess) {
  const Estimate cpu = run(/*on_gpu=*/false);
  ASSERT_EQ(cpu.residencies.size(), 2u) << "by layer is for GPUs";
  EXPECT_LT(cpu.residencies[1].peak_bytes, cpu.residencies[0].peak_bytes);
  EXPECT_EQ(cpu.residencies[1].host_bytes, 0);
  const Estimate gpu = run(/*on_gpu=*/true);
  ASSERT_EQ(gpu.residencies.size(), 3u);
  EXPECT_LE(gpu.residencies[2].peak_bytes, gpu.residencies[1].peak_bytes);
  EXPECT_GT(gpu.residencies[1].host_bytes, 0);
}

TEST_F(Estimates, TilingTradesWorkForMemoryOnlyAboveATile) {
  settings_.num_frames.set(1, Origin::kFlag);
  const Estimate plain = run();
  settings_.vae_tiling.set(true, Origin::kFlag);
  EXPECT_EQ(stage(run(), "decode")->work, stage(plain, "decode")->work) << "64x32 is one tile";
}

}  // namespace
}  // namespace fastwan::cli
