#include "config/recipe.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "config/presets.h"

namespace fastwan::config {
namespace {

constexpr const char* kFinetune = R"(
models:
  student: {_target_: wan, init_from: some/model}
method: {_target_: finetune}
training:
  data: {data_path: rows, num_frames: 77, num_height: 448, num_width: 832}
)";

constexpr const char* kDistill = R"(
models:
  student: {init_from: some/model, flow_shift: 8, attention_backend: vsa}
  teacher: {init_from: some/model, flow_shift: 8}
  critic: {init_from: some/model, flow_shift: 8}
method:
  _target_: distill
training:
  data: {data_path: "rows_a:2,rows_b", num_frames: 77, num_height: 448, num_width: 832}
  vsa: {sparsity: 0.8}
)";

constexpr const char* kOde = R"(
models:
  student: {init_from: some/model, flow_shift: 5, attention_backend: vsa}
method: {_target_: ode}
training:
  data: {data_path: rows}
  vsa: {sparsity: 0.8}
)";

Recipe parse(const std::string& yaml, const std::vector<Override>& overrides = {}) {
  return parse_recipe(yaml, "run.yaml", overrides);
}

// The message of the error that the action throws, and its code.
struct Refusal {
  std::string code, message;
};
template <class Action>
Refusal refusal_of(Action action) {
  try {
    action();
  } catch (const Failure& failure) {
    return {info(failure.code()).name, failure.what()};
  }
  return {"none", ""};
}

void expect_refused(const std::string& yaml,
                    const std::vector<Override>& overrides,
                    const std::string& code,
                    const std::string& words) {
  const Refusal refusal = refusal_of([&] { parse(yaml, overrides); });
  EXPECT_EQ(refusal.code, code) << refusal.message;
  EXPECT_NE(refusal.message.find(words), std::string::npos) << refusal.message;
}

TEST(Recipe, WhatIsLeftOutHasTheMethodsDefault) {
  const Recipe r = parse(kFinetune);
  EXPECT_EQ(r.method.kind, MethodKind::kFinetune);
  EXPECT_EQ(r.training.data.training_cfg_rate, 0.1);
  EXPECT_EQ(r.training.optimizer.learning_rate, 2e-6);
  EXPECT_EQ(r.training.optimizer.betas, (Betas{0.9, 0.999}));
  EXPECT_EQ(r.training.loop.max_train_steps, 4000);
  EXPECT_EQ(r.callbacks.grad_clip.max_grad_norm, 1.0);
  EXPECT_EQ(r.training.data.seed, 1000);
  EXPECT_EQ(r.training.data.text_len, 512);
  EXPECT_EQ(parse(kDistill).training.data.training_cfg_rate, 0);
}

TEST(Recipe, WhatDependsOnOtherValuesIsResolved) {
  const Recipe r = parse(kDistill);
  EXPECT_FALSE(r.models.at("teacher").trainable);
  EXPECT_TRUE(r.models.at("critic").trainable);
  EXPECT_EQ(r.models.at("critic").attention_backend, AttentionBackend::kDense);
  EXPECT_EQ(r.models.at("student").enable_gradient_checkpointing_type, Recompute::kFull);
  EXPECT_EQ(r.method.fake_score_learning_rate, r.training.optimizer.learning_rate);
  EXPECT_EQ(r.method.fake_score_betas, r.training.optimizer.betas);
  EXPECT_EQ(r.method.fake_score_lr_scheduler, LrScheduler::kConstant);
  EXPECT_EQ(r.pipeline.flow_shift, 8);
  EXPECT_EQ(r.training.model_path, "some/model");
  EXPECT_EQ(r.training.data.num_latent_t, 20);
  EXPECT_EQ(r.training.checkpoint.output_dir, "outputs/distill");
  EXPECT_EQ(r.training.checkpoint.export_path, "outputs/distill/export");
}

TEST(Recipe, AStudentWithSparsityIsSparseUnlessToldOtherwise) {
  const Recipe r = parse(kFinetune, {{"training.vsa.sparsity", "0.9"}});
  EXPECT_EQ(r.models.at("student").attention_backend, AttentionBackend::kVsa);
  EXPECT_EQ(parse(kFinetune).models.at("student").attention_backend, AttentionBackend::kDense);
  expect_refused(kFinetune,
                 {{"training.vsa.sparsity", "0.9"}, {"models.student.attention_backend", "dense"}},
                 "conflict", "attention_backend vsa, got dense");
}

TEST(Recipe, TheWrittenRecipeIsCompleteAndReadsBackEqual) {
  for (const char* yaml : {kFinetune, kDistill}) {
    const Recipe r =
        parse(yaml, {{"pipeline.negative_prompt", "a \"quoted\\ text\",\ttab é 色: [x]"},
                     {"training.optimizer.learning_rate", "1.2345678901234567e-5"}});
    const std::string written = to_yaml(r);
    const Recipe again = parse(written);
    EXPECT_EQ(to_yaml(again), written);
    EXPECT_EQ(again.pipeline.negative_prompt, "a \"quoted\\ text\",\ttab é 色: [x]");
    EXPECT_EQ(again.training.optimizer.learning_rate, 1.2345678901234567e-5);
    EXPECT_EQ(recipe_hash(again), sha256_hex(written));
    EXPECT_NE(written.find("  cfg_uncond:\n    text: negative_prompt\n"), std::string::npos);
  }
}

TEST(Recipe, TheHashSeesEveryValue) {
  const Recipe before = parse(kDistill);
  Recipe after = before;
  after.callbacks.ema.decay = 0.98;
  EXPECT_NE(recipe_hash(after), recipe_hash(before));
  const std::vector<RecipeChange> changes = recipe_changes(before, after);
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].key, "callbacks.ema.decay");
  EXPECT_EQ(changes[0].before, "0");
  EXPECT_EQ(changes[0].after, "0.98");
  after.models.erase("critic");
  bool names_a_lost_role = false;
  for (const RecipeChange& change : recipe_changes(before, after)) {
    names_a_lost_role |= change.key == "models.critic.init_from" && change.after.empty();
  }
  EXPECT_TRUE(names_a_lost_role);
}

TEST(Recipe, OnlyDistillationsDifferInTheCriticsSettings) {
  Recipe before = parse(kDistill);
  Recipe after = before;
  after.method.fake_score_learning_rate = 0.5;
  EXPECT_EQ(recipe_changes(before, after).size(), 1U);
  before.method.kind = after.method.kind = MethodKind::kFinetune;
  EXPECT_TRUE(recipe_changes(before, after).empty());
}

TEST(Recipe, SomeKeysLeaveTheWeightsAsTheyAre) {
  EXPECT_FALSE(affects_training("training.loop.max_seconds"));
  EXPECT_FALSE(affects_training("training.checkpoint.output_dir"));
  EXPECT_FALSE(affects_training("callbacks.validation.every_steps"));
  EXPECT_TRUE(affects_training("training.loop.max_train_steps")) << "schedules count to it";
  EXPECT_TRUE(affects_training("training.data.seed"));
  EXPECT_TRUE(affects_training("callbacks.ema.decay"));
}

TEST(Recipe, OverridesAreStrongerThanTheFile) {
  const Recipe r = parse(kDistill, {{"training.optimizer.learning_rate", "1e-5"},
                                    {"training.optimizer.betas", "0, 0.999"},
                                    {"method.dmd_denoising_steps", "1000,500"},
                                    {"training.tracker.trackers", "jsonl,csv"},
                                    {"models.critic.flow_shift", "5"}});
  EXPECT_EQ(r.training.optimizer.learning_rate, 1e-5);
  EXPECT_EQ(r.training.optimizer.betas, (Betas{0, 0.999}));
  EXPECT_EQ(r.method.fake_score_betas, (Betas{0, 0.999})) << "as the student's";
  EXPECT_EQ(r.method.dmd_denoising_steps, (std::vector<int64_t>{1000, 500}));
  EXPECT_EQ(r.training.tracker.trackers, (std::vector<std::string>{"jsonl", "csv"}));
  EXPECT_EQ(r.models.at("critic").flow_shift, 5);
}

TEST(Recipe, AListOnTheCommandLineMayStandInBrackets) {
  const auto interval = [](const char* text) {
    return parse(kDistill, {{"method.real_score_guidance_interval", text}})
        .method.real_score_guidance_interval;
  };
  EXPECT_EQ(interval("[0.25, 0.75]"), (Interval{0.25, 0.75}));
  EXPECT_EQ(interval("0.25,0.75"), (Interval{0.25, 0.75}));
  const Recipe r = parse(kDistill, {{"method.dmd_denoising_steps", "[1000, 500]"},
                                    {"callbacks.validation.prompts", "[\"a, b\", c]"},
                                    {"pipeline.negative_prompt", "[bad]"}});
  EXPECT_EQ(r.method.dmd_denoising_steps, (std::vector<int64_t>{1000, 500}));
  EXPECT_EQ(r.callbacks.validation.prompts, (std::vector<std::string>{"a, b", "c"}));
  EXPECT_EQ(r.pipeline.negative_prompt, "[bad]") << "a text is a text";
  for (const char* wrong : {"[0.25, 0.75", "[{a: 1}]", "[0.25]"}) {
    EXPECT_NE(refusal_of([&] { interval(wrong); }).code, "none") << wrong;
  }
}

TEST(Recipe, WhatIsAskedForAndDoesNotHappenIsSaid) {
  const auto notes_of = [](const std::vector<Override>& overrides) {
    std::vector<std::string> notes;
    parse_recipe(kDistill, "run.yaml", overrides, &notes);
    return notes;
  };
  EXPECT_TRUE(notes_of({}).empty());
  const std::vector<std::vector<Override>> idle = {
      {{"training.checkpoint.embed_frozen", "true"}},
      {{"training.distributed.reduce_dtype", "bf16"}},
      {{"method.boundary_ratio", "0.875"}},
      {{"callbacks.ema.decay", "0.9"}, {"callbacks.ema.start_iter", "4001"}},
      {{"method.generator_update_interval", "4001"}},
      {{"method.critic_warmup", "4000"}},
      {{"method.real_score_guidance_scale", "1"},
       {"method.real_score_guidance_interval", "0,0.5"}}};
  for (const std::vector<Override>& overrides : idle) {
    const std::vector<std::string> notes = notes_of(overrides);
    ASSERT_EQ(notes.size(), 1u) << overrides.back().first;
    EXPECT_NE(notes[0].find(overrides.back().first), std::string::npos) << notes[0];
  }
  // The other side of each boundary.
  EXPECT_TRUE(notes_of({{"callbacks.ema.decay", "0.9"},
                        {"callbacks.ema.start_iter", "4000"},
                        {"method.generator_update_interval", "4000"}})
                  .empty());
  EXPECT_TRUE(notes_of({{"method.critic_warmup", "3999"}}).empty());
}

TEST(Recipe, MistakesAreNamedWithTheirPlace) {
  expect_refused(
      "models:\n  student: {init_from: m, trainible: true}\nmethod: {_target_: distill}\n", {},
      "unknown_key",
      "run.yaml:2:38: models.student.trainible is not a setting here. Did you mean "
      "models.student.trainable?");
  expect_refused(kFinetune, {{"training.optimizer.learnig_rate", "1"}}, "unknown_key",
                 "--training.optimizer.learnig_rate is not a setting here. Did you mean "
                 "training.optimizer.learning_rate?");
  expect_refused("method: {_target_: finetune}\ntraining:\n  loop: {max_train_steps: many}\n", {},
                 "bad_value",
                 "run.yaml:3:27: training.loop.max_train_steps must be a whole number");
  expect_refused("method: {_target_: finetune, _target_: distill}\n", {}, "duplicate_key",
                 "method._target_ occurs twice");
  expect_refused("training: {}\n", {}, "bad_config", "method._target_ is not given");
  expect_refused("method: {_target_: fintune}\n", {}, "unsupported_method", "fintune");
}

TEST(Recipe, ValuesOutsideTheirRangeAreRefused) {
  const std::vector<Override> bad[] = {{{"training.optimizer.learning_rate", "-1e-6"}},
                                       {{"training.vsa.sparsity", "1.5"}},
                                       {{"models.student.flow_shift", "0"}},
                                       {{"method.min_timestep_ratio", "-0.1"}},
                                       {{"training.data.train_batch_size", "0"}},
                                       {{"training.optimizer.betas", "0.9"}},
                                       {{"training.optimizer.betas", "0.9,0.99,0.999"}},
                                       {{"training.checkpoint.max_file_bytes", "1"}},
                                       {{"training.optimizer.lr_scheduler", "cos"}}};
  for (const std::vector<Override>& overrides : bad) {
    expect_refused(kFinetune, overrides, "bad_value", "--" + overrides[0].first);
  }
}

struct Rule {
  const char* yaml;
  std::vector<Override> overrides;
  const char* words;
};

TEST(Recipe, WhatDoesNotGoTogetherIsRefusedBeforeAnyWeights) {
  const Rule rules[] = {
      {kDistill, {{"method.dmd_denoising_steps", "1000,522,757"}}, "must fall"},
      {kDistill, {{"method.dmd_denoising_steps", "757,757"}}, "must fall"},
      {kDistill, {{"method.max_timestep_ratio", "0.02"}}, "min_timestep_ratio must be below"},
      {kDistill,
       {{"method.regression_weight", "0.5"}},
       "method.regression_weight 0.5 needs method.rollout_mode simulate"},
      {kDistill,
       {{"method.regression_steps", "1"}},
       "method.regression_steps 1 has no effect without method.regression_weight"},
      {kDistill,
       {{"method.rollout_mode", "simulate"},
        {"method.regression_weight", "1"},
        {"method.regression_steps", "4"}},
       "method.regression_steps 4 is beyond the 3 steps"},
      {kDistill,
       {{"method.real_score_guidance_interval", "0.9,0.1"}},
       "real_score_guidance_interval must rise, got 0.9 and 0.1"},
      {kDistill,
       {{"training.distributed.num_gpus", "8"}, {"training.distributed.hsdp_shard_dim", "3"}},
       "hsdp_replicate_dim x hsdp_shard_dim must be num_gpus, got 2 x 3 for 8"},
      {kDistill,
       {{"training.distributed.num_gpus", "8"}, {"training.distributed.sp_size", "3"}},
       "sp_size must divide num_gpus"},
      {kDistill, {{"training.optimizer.betas", "1,0.999"}}, "below 1, got 1"},
      {kDistill, {{"training.optimizer.m_dtype", "none"}}, "first beta of 0"},
      {kDistill, {{"training.optimizer.v_dtype", "none"}}, "second moment"},
      {kDistill, {{"method.k_block", "8"}}, "needs method.k_scope sample"},
      {kDistill,
       {{"method.k_scope", "sample"},
        {"method.k_block", "3"},
        {"training.data.train_batch_size", "8"}},
       "k_block 3 must divide the batch of an iteration, 8"},
      {kDistill,
       {{"method.k_scope", "sample"},
        {"method.k_block", "2"},
        {"training.data.train_batch_size", "8"}},
       "k_block 2 must be at least the 3 steps of method.dmd_denoising_steps"},
      {kDistill, {{"training.data.training_cfg_rate", "0.1"}}, "always conditional"},
      {kDistill, {{"models.teacher.trainable", "true"}}, "models.teacher.trainable must be false"},
      {kDistill, {{"models.teacher.init_from", ""}}, "models.teacher.init_from is not given"},
      {kDistill, {{"models.critic._target_", "umt5"}}, "models.critic._target_ must be wan"},
      {kDistill, {{"training.data.preprocessed_data_type", "text_only"}}, "rollout_mode simulate"},
      {kDistill,
       {{"models.student.lora.shared_base", "true"}},
       "lora.enable of student and critic"},
      {kFinetune,
       {{"models.teacher.init_from", "m"}},
       "models.teacher has no part in method finetune"},
      {kFinetune, {{"training.data.num_frames", "80"}}, "4k+1, got 80"},
      {kFinetune, {{"training.data.data_path", ""}}, "data_path is not given"},
      {kFinetune, {{"training.data.source", "shapes"}}, "data_path has no part in source shapes"},
      {kFinetune, {{"training.data.shapes.crop_frames", "13"}}, "is for method vae"},
      {kFinetune, {{"method.train_encoder", "false"}}, "is for method vae"},
      {kFinetune,
       {{"training.optimizer.name", "muon"}, {"training.optimizer.v_dtype", "bf16_sr"}},
       "moments in fp32"},
      {kFinetune,
       {{"training.optimizer.name", "muon"}, {"training.distributed.num_gpus", "2"}},
       "whole matrices in every process"},
      {kFinetune, {{"training.dit_precision", "bf16"}}, "masters in bf16"},
      {kFinetune, {{"training.compute_dtype", "fp64"}}, "both be fp64"},
      {kFinetune, {{"training.optimizer.lr_warmup_steps", "10"}}, "take constant_with_warmup"},
      {kFinetune,
       {{"models.student.enable_gradient_checkpointing_type", "ops"}},
       "ops is not here"},
      {kFinetune, {{"callbacks.ema.decay", "1"}}, "callbacks.ema.decay must be below 1"},
      {kFinetune, {{"callbacks.validation.every_steps", "5"}}, "needs dataset_file or prompts"},
      {kFinetune,
       {{"callbacks.validation.every_steps", "5"},
        {"callbacks.validation.prompts", "a"},
        {"callbacks.validation.sampling_timesteps", "1000,500"}},
       "sampling_timesteps is for methods distill and ode"},
      {kFinetune,
       {{"callbacks.validation.every_steps", "5"},
        {"callbacks.validation.prompts", "a"},
        {"callbacks.validation.data_path", "held_out"},
        {"callbacks.validation.loss_rows", "0"}},
       "data_path needs loss_rows"},
      {kDistill,
       {{"callbacks.validation.every_steps", "5"},
        {"callbacks.validation.prompts", "a"},
        {"callbacks.validation.data_path", "held_out"}},
       "data_path is for method finetune"},
      {kDistill,
       {{"callbacks.validation.every_steps", "5"},
        {"callbacks.validation.prompts", "a"},
        {"callbacks.validation.sampling_steps", "4"}},
       "sampling_steps must be 3, the timesteps of method.dmd_denoising_steps, got [4]"},
      {kFinetune, {{"training.vsa.coarse_branch", "false"}}, "coarse_branch false needs"},
      {kFinetune, {{"training.tracker.trackers", "wandb"}}, "jsonl, csv, tensorboard, got wandb"},
      {kFinetune, {{"training.distributed.tp_size", "0"}}, "tp_size must be 1 or -1"}};
  for (const Rule& rule : rules) {
    expect_refused(rule.yaml, rule.overrides, "conflict", rule.words);
  }
}

// Both sides of the rule that keeps processes of a shard group in step.
TEST(Recipe, OdeRegressionReadsTrajectoriesAndMakesAFewStepStudent) {
  const Recipe r = parse(kOde);
  EXPECT_EQ(r.method.kind, MethodKind::kOde);
  EXPECT_EQ(r.training.data.training_cfg_rate, 0);
  EXPECT_EQ(r.method.dmd_denoising_steps, (std::vector<int64_t>{1000, 757, 522}));
  EXPECT_EQ(to_yaml(parse(to_yaml(r))), to_yaml(r));
  EXPECT_TRUE(trains_transformer(r.method.kind) && is_few_step(r.method.kind));
  EXPECT_TRUE(trains_transformer(MethodKind::kFinetune) && !is_few_step(MethodKind::kFinetune));
  EXPECT_FALSE(trains_transformer(MethodKind::kVae));
  const auto refused = [](const std::vector<Override>& overrides, const char* words) {
    expect_refused(kOde, overrides, "conflict", words);
  };
  refused({{"models.teacher.init_from", "some/model"}}, "models.teacher has no part in method ode");
  refused({{"training.data.training_cfg_rate", "0.1"}},
          "training_cfg_rate must be 0 in method ode");
  refused({{"method.dmd_denoising_steps", "757,1000"}}, "must fall");
  refused({{"training.data.preprocessed_data_type", "text_only"}}, "rollout_mode");
  refused({{"training.data.data_path", ""},
           {"training.data.source", "shapes"},
           {"training.data.num_frames", "9"},
           {"training.data.num_height", "32"},
           {"training.data.num_width", "32"}},
          "source shapes has no part in method ode");
  parse(kOde, {{"callbacks.validation.every_steps", "5"},
               {"callbacks.validation.prompts", "a circle"},
               {"callbacks.validation.sampling_timesteps", "1000,500"}});
}

TEST(Recipe, DrawsOfASampleNeedBlocksWhereAStateIsShared) {
  const std::vector<Override> sharded = {{"method.rollout_mode", "simulate"},
                                         {"method.k_scope", "sample"},
                                         {"training.distributed.num_gpus", "2"},
                                         {"training.distributed.hsdp_shard_dim", "2"},
                                         {"training.data.train_batch_size", "8"}};
  const auto with = [&sharded](std::vector<Override> more) {
    more.insert(more.begin(), sharded.begin(), sharded.end());
    return more;
  };
  expect_refused(kDistill, sharded, "conflict", "needs method.k_block");
  EXPECT_NO_THROW(parse(kDistill, with({{"method.k_block", "4"}})));
  expect_refused(kDistill, with({{"method.k_block", "16"}}), "conflict",
                 "k_block 16 must divide the batch of a process, 8");
  EXPECT_NO_THROW(parse(kDistill, with({{"training.distributed.hsdp_shard_dim", "1"}})));
  EXPECT_NO_THROW(parse(
      kDistill, with({{"training.distributed.hsdp_shard_dim", "1"}, {"method.k_block", "16"}})));
  EXPECT_NO_THROW(parse(kDistill, with({{"method.k_scope", "group"}})));
}

TEST(Recipe, AWarmUpMayBeTheCriticsAlone) {
  const std::vector<Override> warm = {{"training.optimizer.lr_warmup_steps", "10"}};
  expect_refused(kDistill, warm, "conflict", "take constant_with_warmup");
  std::vector<Override> of_critic = warm;
  of_critic.emplace_back("method.fake_score_lr_scheduler", "cosine");
  EXPECT_EQ(parse(kDistill, of_critic).training.optimizer.lr_warmup_steps, 10);
  expect_refused(kFinetune, of_critic, "conflict", "take constant_with_warmup");
}

TEST(Recipe, BooleansAreReadAsPythonAndYamlWriteThem) {
  for (const char* word : {"true", "True", "TRUE", "yes", "On", "1"}) {
    EXPECT_TRUE(parse(kFinetune, {{"training.model.precondition_outputs", word}})
                    .training.model.precondition_outputs)
        << word;
  }
  EXPECT_FALSE(parse(std::string(kFinetune) + "  tracker: {log_visualization: False}\n")
                   .training.tracker.log_visualization);
  expect_refused(kFinetune, {{"training.model.precondition_outputs", "maybe"}}, "bad_value",
                 "must be true or false, got maybe");
}

// Beyond it the law leaves the noise levels: at 10, u = 0.25 would be a level of 1.29.
TEST(Recipe, TheModeDensityStaysWithinTheNoiseLevels) {
  EXPECT_EQ(parse(kFinetune, {{"training.model.mode_scale", "-1"}}).training.model.mode_scale, -1);
  for (const char* scale : {"10", "-1.5"}) {
    expect_refused(kFinetune, {{"training.model.mode_scale", scale}}, "bad_value",
                   "a number from -1 to 7");
  }
}

TEST(Recipe, MeshesAreFilledIn) {
  const auto mesh = [](std::vector<Override> overrides) {
    overrides.emplace_back("training.distributed.num_gpus", "8");
    const Distributed d = parse(kFinetune, overrides).training.distributed;
    return std::pair(d.hsdp_replicate_dim, d.hsdp_shard_dim);
  };
  EXPECT_EQ(mesh({}), std::pair(int64_t{1}, int64_t{8}));
  EXPECT_EQ(mesh({{"training.distributed.hsdp_shard_dim", "2"}}),
            std::pair(int64_t{4}, int64_t{2}));
  EXPECT_EQ(mesh({{"training.distributed.hsdp_replicate_dim", "8"}}),
            std::pair(int64_t{8}, int64_t{1}));
  EXPECT_EQ(mesh({{"training.distributed.hsdp_shard_dim", "-1"},
                  {"training.distributed.hsdp_replicate_dim", "2"}}),
            std::pair(int64_t{2}, int64_t{4}));
}

TEST(Recipe, TheBatchOfAnIterationCountsRanksThatSeeDifferentData) {
  const Recipe r = parse(kDistill, {{"training.distributed.num_gpus", "64"},
                                    {"training.distributed.sp_size", "4"},
                                    {"training.distributed.hsdp_shard_dim", "8"},
                                    {"training.loop.gradient_accumulation_steps", "2"}});
  EXPECT_EQ(data_ranks(r), 16);
  EXPECT_EQ(global_batch(r), 32);
}

TEST(Recipe, TwoCheckpointsAreKeptAtLeast) {
  std::vector<std::string> notes;
  const std::vector<Override> one = {{"training.checkpoint.checkpoints_total_limit", "1"}};
  const Recipe r = parse_recipe(kFinetune, "run.yaml", one, &notes);
  EXPECT_EQ(r.training.checkpoint.checkpoints_total_limit, 2);
  EXPECT_EQ(notes.size(), 1U);
}

std::vector<Path> shipped_recipes() {
  std::vector<Path> files;
  const Path root = Path(FASTWAN_SOURCE_DIR) / "recipes";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const Path name = entry.path().filename();
    if (name.extension() == ".yaml" && name != "thresholds.yaml" && name != "evaluation.yaml") {
      files.push_back(entry.path());
    }
  }
  return files;
}

TEST(ShippedRecipes, EachReadsAndReadsBackEqual) {
  const std::vector<Path> files = shipped_recipes();
  EXPECT_GE(files.size(), 30U);
  for (const Path& file : files) {
    std::vector<std::string> notes;
    const Recipe r = read_recipe(file, {}, &notes);
    EXPECT_TRUE(notes.empty()) << file << ": " << notes[0];
    EXPECT_EQ(to_yaml(parse(to_yaml(r))), to_yaml(r)) << file;
    EXPECT_EQ(r.training.tracker.run_name, file.stem().string());
  }
}

Recipe shipped(const std::string& name) {
  return read_recipe(Path(FASTWAN_SOURCE_DIR) / "recipes" / (name + ".yaml"));
}

TEST(ShippedRecipes, TheDistillationsCarryThePublishedNumbers) {
  struct Published {
    const char* name;
    double rate, critic_rate, guidance, shift, sparsity;
    int64_t batch, latent_frames;
  };
  const Published all[] = {{"wan2.1-1.3b-distill-vsa-64gpu", 2e-6, 2e-6, 4.5, 8, 0.8, 64, 20},
                           {"wan2.1-14b-distill-vsa-64gpu", 2e-6, 2e-6, 4.5, 3, 0.9, 16, 20},
                           {"wan2.2-5b-distill-64gpu", 4e-6, 2e-6, 4.0, 5, 0.0, 64, 31},
                           {"wan2.2-5b-distill-vsa-64gpu", 4e-6, 2e-6, 4.0, 5, 0.8, 64, 31},
                           {"wan2.2-5b-distill-vsa-1gpu", 2e-6, 2e-6, 4.5, 8, 0.8, 1, 31},
                           {"wan2.2-5b-distill-vsa-lora-1gpu", 1e-4, 1e-4, 4.5, 8, 0.8, 1, 31}};
  for (const Published& p : all) {
    const Recipe r = shipped(p.name);
    EXPECT_EQ(r.training.optimizer.learning_rate, p.rate) << p.name;
    EXPECT_EQ(r.method.fake_score_learning_rate, p.critic_rate) << p.name;
    EXPECT_EQ(r.method.real_score_guidance_scale, p.guidance) << p.name;
    EXPECT_EQ(r.models.at("student").flow_shift, p.shift) << p.name;
    EXPECT_EQ(r.training.vsa.sparsity, p.sparsity) << p.name;
    EXPECT_EQ(global_batch(r), p.batch) << p.name;
    EXPECT_EQ(r.training.data.num_latent_t, p.latent_frames) << p.name;
    EXPECT_EQ(r.method.dmd_denoising_steps, (std::vector<int64_t>{1000, 757, 522})) << p.name;
    EXPECT_EQ(r.method.generator_update_interval, 5) << p.name;
    EXPECT_EQ(r.training.loop.max_train_steps, 4000) << p.name;
    EXPECT_EQ(r.training.optimizer.weight_decay, 0.01) << p.name;
    EXPECT_EQ(r.models.at("teacher").attention_backend, AttentionBackend::kDense) << p.name;
    EXPECT_EQ(r.pipeline.negative_prompt, wan_negative_prompt()) << p.name;
  }
  EXPECT_EQ(shipped("wan2.2-5b-distill-64gpu").training.optimizer.lr_scheduler,
            LrScheduler::kCosineWithMinLr);
  for (const char* name : {"wan2.2-5b-distill-64gpu", "wan2.2-5b-distill-vsa-64gpu"}) {
    EXPECT_EQ(shipped(name).method.k_scope, KScope::kGroup)
        << "not one step of the student for all videos: processes of the published run draw alone";
  }
}

TEST(ShippedRecipes, TheSparseFinetuningsRampAsPublished) {
  const Recipe small = shipped("wan2.1-1.3b-finetune-vsa-64gpu");
  EXPECT_EQ(small.training.vsa.sparsity, 0.9);
  EXPECT_EQ(small.training.vsa.VSA_decay_rate, 0.03);
  EXPECT_EQ(small.training.vsa.VSA_decay_interval_steps, 50);
  EXPECT_EQ(small.training.optimizer.learning_rate, 1e-6);
  EXPECT_EQ(small.training.data.training_cfg_rate, 0.1);
  EXPECT_EQ(small.models.at("student").enable_gradient_checkpointing_type, Recompute::kNone);
  EXPECT_EQ(shipped("wan2.1-14b-finetune-vsa-64gpu").training.vsa.VSA_decay_interval_steps, 30);
}

TEST(ShippedRecipes, ThePresetsOfTheStartFoldersRead) {
  for (const char* folder : {"model", "model-ci"}) {
    const std::string file =
        (Path(FASTWAN_SOURCE_DIR) / "recipes/tiny-shapes" / folder / "fastwan.json").string();
    EXPECT_EQ(preset_from_json(read_json_file(file), file).steps, 50) << file;
  }
}

TEST(ShippedRecipes, TheTinyStagesHandTheirExportsOn) {
  const Recipe teacher = shipped("tiny-shapes/teacher");
  EXPECT_EQ(shipped("tiny-shapes/vae-windows").models.at("student").init_from,
            shipped("tiny-shapes/text").training.checkpoint.export_path);
  EXPECT_EQ(shipped("tiny-shapes/vae-clips").models.at("student").init_from,
            shipped("tiny-shapes/vae-windows").training.checkpoint.export_path);
  EXPECT_EQ(shipped("tiny-shapes/vae").models.at("student").init_from,
            shipped("tiny-shapes/vae-clips").training.checkpoint.export_path);
  EXPECT_EQ(teacher.models.at("student").init_from,
            shipped("tiny-shapes/vae").training.checkpoint.export_path);
  for (const char* name : {"vsa", "dense", "ablation-dense"}) {
    EXPECT_EQ(shipped(std::string("tiny-shapes/") + name).models.at("student").init_from,
              teacher.training.checkpoint.export_path)
        << name;
  }
  const Recipe ode = shipped("tiny-shapes/ode");
  EXPECT_EQ(ode.models.at("student").init_from,
            shipped("tiny-shapes/vsa").training.checkpoint.export_path);
  EXPECT_EQ(ode.method.dmd_denoising_steps,
            shipped("tiny-shapes/distill").method.dmd_denoising_steps);
  for (const char* name :
       {"distill", "distill-data", "ablation-none", "ablation-no-gate", "ablation-sparsity-0.9",
        "ablation-ratio-1", "ablation-no-guidance", "ablation-regression", "ablation-first-step"}) {
    const Recipe sparse = shipped(std::string("tiny-shapes/") + name);
    EXPECT_EQ(sparse.models.at("student").init_from, ode.training.checkpoint.export_path) << name;
    EXPECT_EQ(sparse.models.at("teacher").init_from, teacher.training.checkpoint.export_path)
        << name;
  }
  EXPECT_EQ(shipped("tiny-shapes/ablation-no-ode").models.at("student").init_from,
            ode.models.at("student").init_from);
  const Recipe distill = shipped("tiny-shapes/distill");
  EXPECT_EQ(distill.training.data.data_path, ode.training.data.data_path);
  EXPECT_EQ(distill.method.k_block, 64);
  EXPECT_EQ(distill.training.optimizer.betas[0], 0);
  EXPECT_EQ((distill.training.loop.max_train_steps - distill.method.critic_warmup) /
                distill.method.generator_update_interval,
            5000)
      << "updates of the student";
}

}  // namespace
}  // namespace fastwan::config
