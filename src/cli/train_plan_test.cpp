#include "cli/train_plan.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/train_progress.h"

namespace fastwan::cli {
namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;

config::Recipe shipped(const std::string& name,
                       const std::vector<config::Override>& overrides = {}) {
  return config::read_recipe(Path(FASTWAN_SOURCE_DIR) / "recipes" / (name + ".yaml"), overrides);
}

TrainPlan plan_of(const config::Recipe& recipe, PlanOptions options = {}) {
  std::vector<std::string> notes;
  return plan_training(recipe, options, notes);
}

const RolePlan& role(const TrainPlan& plan, const std::string& name) {
  for (const RolePlan& r : plan.roles) {
    if (r.role == name) {
      return r;
    }
  }
  throw std::logic_error(name);
}

TEST(TrainPlan, TheSparseDistillationOfTheSmallModel) {
  const TrainPlan plan = plan_of(shipped("wan2.1-1.3b-distill-vsa-64gpu"));
  EXPECT_EQ(plan.grid.num_tokens(), 29'120);
  EXPECT_EQ(plan.grid.num_tiles(), 455);
  EXPECT_EQ(role(plan, "student").topk, 91);
  EXPECT_EQ(role(plan, "teacher").topk, 0);
  EXPECT_NEAR(static_cast<double>(role(plan, "student").parameters), 1.490e9, 1e6);
  EXPECT_NEAR(static_cast<double>(role(plan, "critic").parameters), 1.419e9, 1e6);
  EXPECT_EQ(role(plan, "teacher").trained, 0);
  EXPECT_EQ(role(plan, "teacher").state.masters, 0);
  EXPECT_NEAR(role(plan, "teacher").state.frozen / kGiga, 2.84, 0.01);
  EXPECT_EQ(plan.global_batch, 64);
  // 1,350 TFLOP a video; 4,000 iterations at 400 TFLOP/s a process.
  EXPECT_NEAR(plan.work / 64 / kTera, 1350, 3);
  EXPECT_NEAR(plan.hours, 4000 * 1350.0 / 400 / 3600, 0.02);
  // 16 B of student and critic, 2 of the teacher.
  EXPECT_NEAR(plan.state_bytes / kGiga, 16 * 1.490 + 16 * 1.419 + 2 * 1.419, 0.05);
  EXPECT_NEAR(plan.sparse_gain, 2.09, 0.01);
}

TEST(TrainPlan, SharesOfAStateAndOfAVideo) {
  const TrainPlan plan = plan_of(shipped("wan2.1-14b-distill-vsa-64gpu"));
  EXPECT_EQ(plan.global_batch, 16);
  EXPECT_NEAR(plan.state_bytes / kGiga, (16 * 15.337 + 16 * 14.288 + 2 * 14.288) / 8, 0.1);
  const TrainPlan alone =
      plan_of(shipped("wan2.1-14b-distill-vsa-64gpu", {{"training.distributed.sp_size", "1"}}));
  EXPECT_NEAR(*role(alone, "student").activations, 4 * *role(plan, "student").activations, 1);
  EXPECT_NEAR(alone.hours, 4 * plan.hours, 1e-6) << "four times the videos";
}

// Published at shard 1: it does not fit 141 GB, and the plan says from which shard it does.
TEST(TrainPlan, TheCheapestMeshThatFitsIsNamed) {
  const config::Recipe recipe =
      shipped("wan2.2-5b-distill-64gpu", {{"training.distributed.hsdp_shard_dim", "1"},
                                          {"training.distributed.hsdp_replicate_dim", "64"}});
  const TrainPlan plan = plan_of(recipe, {.rank_memory = 141e9});
  EXPECT_GT(*plan.peak_bytes(), 141e9);
  EXPECT_EQ(plan.least_shard, 2);
  EXPECT_NE(plan_text(plan).find("does not fit; fits from hsdp_shard_dim 2"), std::string::npos);
  EXPECT_EQ(plan_of(recipe, {.rank_memory = 1e9}).least_shard, std::nullopt);
  EXPECT_EQ(plan_of(recipe, {.rank_memory = 1e12}).least_shard, 1);
}

TEST(TrainPlan, AdaptersOnASharedBaseHoldOneFrozenNetwork) {
  const TrainPlan plan = plan_of(shipped("wan2.1-14b-distill-vsa-lora-8gpu"));
  EXPECT_EQ(role(plan, "student").state.frozen, 0);
  EXPECT_EQ(role(plan, "critic").state.frozen, 0);
  EXPECT_NEAR(role(plan, "teacher").state.frozen / kGiga, 14.288 * 2 / 8, 0.01);
  EXPECT_LT(plan.state_bytes, 6.2 * kGiga) << "a base of 3.6 GB, and the gates that train whole";
  const TrainPlan apart = plan_of(
      shipped("wan2.1-14b-distill-vsa-lora-8gpu", {{"models.student.lora.shared_base", "false"}}));
  EXPECT_GT(apart.state_bytes, 2 * plan.state_bytes);
}

// What a checkpoint of such a run holds: eight adapters a block, gates whole.
TEST(TrainPlan, GatesTrainWholeBesideAdapters) {
  const config::Recipe recipe = shipped("wan2.1-1.3b-distill-vsa-lora-8gpu");
  const TrainPlan plan = plan_of(recipe);
  const int64_t rank = recipe.models.at("student").lora.rank, D = 1536;
  EXPECT_EQ(role(plan, "critic").trained, 30 * 8 * rank * 2 * D);
  EXPECT_EQ(role(plan, "student").trained, 30 * (8 * rank * 2 * D + D * D + D));
}

// 0.03 more every 50 iterations to 0.9: 1,500 of 4,000 iterations work more than the last.
TEST(TrainPlan, ARampCountsAsItRises) {
  const std::string name = "wan2.1-1.3b-finetune-vsa-64gpu";
  const TrainPlan ramped = plan_of(shipped(name));
  const auto constant = [&name](const char* sparsity) {
    return plan_of(shipped(name, {{"training.vsa.sparsity", sparsity},
                                  {"training.vsa.VSA_decay_interval_steps", "0"}}));
  };
  double sum = 2500 * constant("0.9").work;
  for (int n = 0; n < 30; ++n) {
    sum += 50 * constant(str(0.03 * n).c_str()).work;
  }
  EXPECT_NEAR(ramped.work, sum / 4000, 1e-9 * ramped.work);
  EXPECT_NEAR(ramped.work / 1e15, 25.07, 0.01);
  EXPECT_EQ(ramped.sparse_gain, constant("0.9").sparse_gain) << "of the last iterations";
  EXPECT_EQ(role(ramped, "student").topk, 46);
  const TrainPlan short_run = plan_of(shipped(name, {{"training.loop.max_train_steps", "50"}}));
  EXPECT_NEAR(short_run.work, constant("0").work, 1e-9 * short_run.work) << "dense all the time";
}

// Dense data-free 5B: 1 earlier forward of the student on average, not all 2.
TEST(TrainPlan, SimulatedInputsCostForwards) {
  const TrainPlan simulated = plan_of(shipped("wan2.2-5b-distill-64gpu"));
  const TrainPlan data = plan_of(shipped(
      "wan2.2-5b-distill-64gpu",
      {{"method.rollout_mode", "data_latent"}, {"training.data.preprocessed_data_type", "t2v"}}));
  EXPECT_NEAR((simulated.critic_work - data.critic_work) / 64 / kTera, 517, 2);
  EXPECT_NEAR((simulated.student_work - data.student_work) / 64 / kTera, 517, 2);
  EXPECT_NEAR(simulated.work, simulated.critic_work + simulated.student_work / 5, 1);
}

TEST(TrainPlan, TheTinyStagesFromTheirOwnConfigs) {
  // Their exports do not exist yet; the configs that they come from do.
  const std::string model = std::string(FASTWAN_SOURCE_DIR) + "/recipes/tiny-shapes/model";
  const TrainPlan plan =
      plan_of(shipped("tiny-shapes/distill", {{"models.student.init_from", model},
                                              {"models.teacher.init_from", model},
                                              {"models.critic.init_from", model},
                                              {"training.model_path", model}}));
  EXPECT_EQ(plan.grid.num_tokens(), 1152);
  EXPECT_EQ(plan.grid.num_tiles(), 18);
  EXPECT_EQ(role(plan, "student").topk, 4);
  EXPECT_EQ(role(plan, "student").parameters, 6'700'256);
  EXPECT_EQ(role(plan, "critic").parameters, 6'329'696);
  EXPECT_EQ(role(plan, "student").state.first_moment, 0) << "first beta 0";
  EXPECT_EQ(role(plan, "student").state.average, 4 * 6'700'256);
  const TrainPlan vae = plan_of(shipped("tiny-shapes/vae", {{"models.student.init_from", model}}));
  EXPECT_EQ(role(vae, "student").parameters, 2'420'459);
  EXPECT_FALSE(vae.peak_bytes()) << "its activations are not estimated, which is not none";
  EXPECT_TRUE(plan_json(vae)["networks"][0]["activation_bytes"].is_null());
  EXPECT_NE(plan_text(vae).find("not estimated"), std::string::npos);
  const std::string small = model + "-ci";
  const TrainPlan text =
      plan_of(shipped("tiny-shapes/ci/text", {{"models.student.init_from", small}}));
  EXPECT_EQ(role(text, "student").parameters, 340'864);
  const TrainPlan teacher =
      plan_of(shipped("tiny-shapes/ci/teacher",
                      {{"models.student.init_from", small}, {"training.model_path", small}}));
  EXPECT_EQ(teacher.grid.num_tokens(), 512);
}

TEST(TrainPlan, WhatCannotBePlannedIsSaid) {
  const auto code = [](const config::Recipe& recipe) -> std::string {
    try {
      plan_of(recipe);
    } catch (const Failure& failure) {
      return str(info(failure.code()).name, ": ", failure.what());
    }
    return "";
  };
  const std::string name = "wan2.1-1.3b-distill-vsa-64gpu";
  EXPECT_NE(code(shipped(name, {{"models.student.init_from", "no/such-model"},
                                {"training.model_path", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}}))
                .find("not_found: models.student.init_from no/such-model"),
            std::string::npos);
  EXPECT_NE(
      code(shipped(name, {{"training.model_path", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}}))
          .find("models.critic: Wan-AI/Wan2.1-T2V-1.3B-Diffusers takes latents of 16 channels, the "
                "VAE of Wan-AI/Wan2.2-TI2V-5B-Diffusers makes 48"),
      std::string::npos);
  EXPECT_NE(code(shipped("wan2.1-14b-distill-vsa-64gpu", {{"training.distributed.sp_size", "64"}}))
                .find("sp_size 64 must divide the 40 heads"),
            std::string::npos);
  EXPECT_NE(code(shipped(name, {{"training.data.num_height", "450"}})).find("multiples of 8"),
            std::string::npos);
  EXPECT_NE(code(shipped(name, {{"training.data.num_height", "456"}}))
                .find("models.critic takes latents in patches of 1x2x2, those of this run are "),
            std::string::npos);
}

TEST(TrainPlan, TheTableNamesWhatTheDocumentHolds) {
  const TrainPlan plan = plan_of(shipped("wan2.1-1.3b-distill-vsa-64gpu"));
  const std::string text = plan_text(plan);
  for (const char* word : {"29120 (20 x 28 x 52), 455 tiles", "91 key tiles of 455", "teacher",
                           "FLOP an iteration", "TFLOP/s a process"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
  }
  const Json document = plan_json(plan);
  EXPECT_EQ(document["tokens"], 29120);
  EXPECT_EQ(document["networks"].size(), 3U);
  EXPECT_EQ(document["networks"][0]["role"], "student");
  EXPECT_EQ(document["peak_bytes"], *plan.peak_bytes());
}

TEST(TrainProgress, ALineHoldsWhatWasMeasured) {
  const config::TrainProgress now{.step = 120,
                                  .total = 4000,
                                  .metrics = {{"train_loss", 0.27654},
                                              {"grad_norm", 1.118},
                                              {"tokens_per_second", 41600},
                                              {"mfu", 0.1234}}};
  EXPECT_EQ(
      progress_line(now, 0.7),
      "step 120/4000  loss 0.2765  grad_norm 1.118  0.7 s/step  45 min left  41.6 k tokens/s  "
      "MFU 12.3 %");
  EXPECT_EQ(progress_line({.step = 1, .total = 4, .metrics = {}}, std::nullopt), "step 1/4");
  EXPECT_THROW(TrainProgressPrinter("loud"), InvalidInput);
}

}  // namespace
}  // namespace fastwan::cli
