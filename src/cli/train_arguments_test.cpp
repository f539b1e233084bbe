#include "cli/train_arguments.h"

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "config/fastvideo_train.h"

namespace fastwan::cli {
namespace {

using config::Recipe;

std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  for (const std::string& word : split(replace_all(line, "\n", " "), ' ')) {
    if (!word.empty()) {
      words.push_back(word);
    }
  }
  return words;
}

Recipe recipe_of(const std::string& line, std::vector<std::string>* notes = nullptr) {
  std::vector<std::string> said;
  const Recipe r = assemble_recipe("", "", split_train_arguments(words_of(line), {}), said);
  if (notes != nullptr) {
    *notes = said;
  }
  return r;
}

template <class Action>
std::string refusal_of(Action action) {
  try {
    action();
  } catch (const Failure& failure) {
    return str(info(failure.code()).name, ": ", failure.what());
  }
  return "nothing was thrown";
}

bool has_word(const std::vector<std::string>& notes, const std::string& word) {
  return std::any_of(notes.begin(), notes.end(), [&word](const std::string& note) {
    return note.find(word) != std::string::npos;
  });
}

// The values of a written recipe by dotted key, lists and texts without their marks.
std::map<std::string, std::string> values_of(const Recipe& recipe) {
  std::map<std::string, std::string> out;
  std::vector<std::string> path;
  for (const std::string& line : split(config::to_yaml(recipe), '\n')) {
    const std::size_t indent = line.find_first_not_of(' ');
    const std::size_t colon = line.find(':');
    if (indent == std::string::npos) {
      continue;
    }
    path.resize(indent / 2);
    path.push_back(line.substr(indent, colon - indent));
    if (colon + 2 < line.size()) {
      std::string key;
      for (const std::string& part : path) {
        key += (key.empty() ? "" : ".") + part;
      }
      std::string value = line.substr(colon + 2);
      std::erase_if(value, [](char c) { return c == '"' || c == '[' || c == ']'; });
      out[key] = value;
    }
  }
  return out;
}

// Numbers in whatever spelling, other texts as they are.
void expect_value(const std::string& got, const std::string& wanted, const std::string& where) {
  const std::vector<std::string> ours = split(got, ',');
  const std::vector<std::string> theirs = split(wanted, ',');
  ASSERT_EQ(ours.size(), theirs.size()) << where << " is " << got;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const std::optional<double> number = parse_double(trim(theirs[i]));
    if (number) {
      EXPECT_EQ(parse_double(trim(ours[i])), number) << where;
    } else {
      EXPECT_EQ(trim(ours[i]), trim(theirs[i])) << where;
    }
  }
}

TEST(FastVideoRuns, EachPublishedRunBecomesTheRecipeThatItMeans) {
  int runs = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(Path(FASTWAN_SOURCE_DIR) / "tests/data/fastvideo")) {
    const Path file = entry.path();
    if (file.extension() != ".flags" && file.extension() != ".yaml") {
      continue;
    }
    ++runs;
    const Recipe recipe =
        file.extension() == ".yaml" ? config::read_recipe(file) : recipe_of(read_file(file));
    const std::map<std::string, std::string> values = values_of(recipe);
    for (const std::string& line :
         split(read_file(Path(file).replace_extension(".expect")), '\n')) {
      if (line.empty()) {
        continue;
      }
      const std::size_t colon = line.find(": ");
      const std::string key = line.substr(0, colon);
      const std::string where = file.filename().string() + " " + key;
      ASSERT_TRUE(values.contains(key)) << where;
      expect_value(values.at(key), line.substr(colon + 2), where);
    }
    EXPECT_EQ(recipe.pipeline.negative_prompt, config::wan_negative_prompt()) << file;
  }
  EXPECT_EQ(runs, 19);
}

TEST(FastVideoFlags, TheGuidanceOfTheirTeacherCountsOneMoreHere) {
  const std::string base =
      "--model-path m --data-path d --num-height 448 --num-width 832 --num-frames 61 ";
  std::vector<std::string> notes;
  const Recipe r = recipe_of(base + "--real-score-guidance-scale 3.5", &notes);
  EXPECT_EQ(r.method.kind, config::MethodKind::kDistill) << "the flag is distillation's";
  EXPECT_EQ(r.method.real_score_guidance_scale, 4.5);
  EXPECT_TRUE(has_word(notes, "standard scale"));
  EXPECT_EQ(recipe_of(base + "--real-score-guidance-scale 0").method.real_score_guidance_scale, 1);
}

TEST(FastVideoFlags, SpellingsAndSwitchesAreTheirs) {
  const std::string base = "--data-path d --num-height 448 --num-width 832 --num-frames 61 ";
  const Recipe r = recipe_of(base +
                             "--pretrained_model_name_or_path m --LEARNING-RATE=1e-6 --use_ema "
                             "--ema_decay 0.99 --simulate_generator_forward False "
                             "--lora_training True --dist-timeout 30 --checkpoints-total-limit 1");
  EXPECT_EQ(r.models.at("student").init_from, "m");
  EXPECT_EQ(r.training.optimizer.learning_rate, 1e-6);
  EXPECT_EQ(r.callbacks.ema.decay, 0.99);
  EXPECT_EQ(r.method.rollout_mode, config::RolloutMode::kDataLatent);
  EXPECT_TRUE(r.models.at("critic").lora.enable);
  EXPECT_FALSE(r.models.at("teacher").lora.enable);
  EXPECT_EQ(r.training.distributed.dist_timeout, 30);
  EXPECT_EQ(r.training.checkpoint.checkpoints_total_limit, 2);
}

TEST(FastVideoFlags, ASwitchIsTurnedOffAsEveryBooleanOption) {
  const std::string base =
      "--model-path m --data-path d --num-height 448 --num-width 832 --num-frames 61 "
      "--generator-update-interval 5 ";
  EXPECT_EQ(recipe_of(base + "--no_simulate_generator_forward").method.rollout_mode,
            config::RolloutMode::kDataLatent);
  EXPECT_EQ(recipe_of(base + "--no-use-ema --ema-decay 0.9").callbacks.ema.decay, 0);
}

TEST(FastVideoFlags, WhatHasNoCounterpartIsNamed) {
  std::vector<std::string> notes;
  recipe_of(
      "--model_path m --data_path d --allow_tf32 --train_sp_batch_size 1 --ema_start_step 0 "
      "--lr_warmup_steps 10 --dit_precision bf16 --flow_shift 5 --trackers wandb",
      &notes);
  for (const char* word : {"--allow-tf32", "--train-sp-batch-size", "nothing reads",
                           "lr_warmup_steps", "dit_precision", "shift 1", "wandb"}) {
    EXPECT_TRUE(has_word(notes, word)) << word;
  }
}

// As its own finetuning scripts for Wan have them.
TEST(FastVideoFlags, WhatIsLeftOfOlderMethodsIsNamedToo) {
  std::vector<std::string> notes;
  recipe_of(
      "--model_path m --data_path d --multi_phased_distill_schedule 4000-1 --not_apply_cfg_solver "
      "--num_euler_timesteps 50 --visualization-steps 10 --scale_lr False --VSA_cache_tile_buf",
      &notes);
  for (const char* word :
       {"--multi-phased-distill-schedule", "--not-apply-cfg-solver", "--num-euler-timesteps",
        "--visualization-steps", "--scale-lr", "--vsa-cache-tile-buf"}) {
    EXPECT_TRUE(has_word(notes, word)) << word;
  }
}

TEST(FastVideoFlags, WhatAScriptOfTheirsSaysTwiceAlikeIsTakenOnce) {
  std::vector<std::string> notes;
  const Recipe r = recipe_of(
      "--model_path m --data_path d --enable_gradient_checkpointing_type full --seed 3 "
      "--enable-gradient-checkpointing-type=full",
      &notes);
  EXPECT_EQ(r.training.model.enable_gradient_checkpointing_type, config::Recompute::kFull);
  EXPECT_TRUE(has_word(notes, "--enable-gradient-checkpointing-type is given twice"));
}

TEST(FastVideoFlags, TheShiftOfTheTrainingNoiseIsToldWhereItIsNotTheirs) {
  const std::string base = "--model_path m --data_path d ";
  for (const auto& [flags, is_told] :
       {std::pair("--flow-shift 3", true), std::pair("", true), std::pair("--flow-shift 1", false),
        std::pair("--flow-shift 3 --generator-update-interval 5", false)}) {
    std::vector<std::string> notes;
    recipe_of(base + flags, &notes);
    EXPECT_EQ(has_word(notes, "trains at shift 1"), is_told) << flags;
  }
}

TEST(FastVideoFlags, WhatARunLeavesOutIsTheirs) {
  const std::string base = "--model_path m --data_path d --num_gpus 8 --betas 0,0.99 ";
  std::vector<std::string> notes;
  const Recipe r = recipe_of(base +
                                 "--generator_update_interval 5 --num-height 448 --num-width 832 "
                                 "--num-frames 61 --simulate_generator_forward",
                             &notes);
  EXPECT_EQ(r.training.optimizer.betas, (config::Betas{0, 0.99}));
  EXPECT_EQ(r.method.fake_score_betas, (config::Betas{0.9, 0.999}));
  EXPECT_EQ(r.method.real_score_guidance_scale, 4.5);
  EXPECT_EQ(r.method.k_scope, config::KScope::kGroup);
  EXPECT_EQ(r.training.distributed.sp_size, 1);
  EXPECT_EQ(r.training.checkpoint.checkpoints_total_limit, 0);
  EXPECT_TRUE(has_word(notes, "0.2 and 0.98")) << "what the older trainer takes";
  EXPECT_EQ(recipe_of(base + "--real-score-guidance-scale -1").method.real_score_guidance_scale, 0);
  EXPECT_EQ(recipe_of(base + "--fake-score-lr-scheduler cosine --lr-warmup-steps 7")
                .training.optimizer.lr_warmup_steps,
            7)
      << "the critic's";
}

TEST(FastVideoFlags, MistakesAreNamed) {
  const auto refusal = [](const std::string& line) {
    return refusal_of([&line] { recipe_of(line); });
  };
  EXPECT_NE(
      refusal("--learnig-rate 1")
          .find("unknown_option: --learnig-rate is not an option of `fastwan train`. Did you mean "
                "--learning-rate?"),
      std::string::npos);
  EXPECT_NE(refusal("--data-path").find("usage: --data-path needs a value"), std::string::npos);
  EXPECT_NE(refusal("--seed 1 --seed 2").find("conflict: --seed is given twice"),
            std::string::npos);
  EXPECT_NE(refusal("--training.data.seed 1 --set training.data.seed=2")
                .find("conflict: --training.data.seed is given twice"),
            std::string::npos);
  EXPECT_NE(refusal("--use-ema true --no-use-ema").find("conflict: --use-ema is given twice"),
            std::string::npos);
  for (const char* line : {"--no-seed", "--no-use-ema=true"}) {
    EXPECT_NE(refusal(line).find("unknown_option"), std::string::npos) << line;
  }
  // Their parser takes it for the option that begins so.
  EXPECT_NE(refusal("--max-train 5").find("Did you mean --max-train-steps?"), std::string::npos);
  EXPECT_NE(refusal("--generator.x=1").find("unknown_key: --generator.x"), std::string::npos);
  EXPECT_NE(refusal("--same_step_across_blocks").find("unsupported_method"), std::string::npos);
}

TEST(FastVideoFiles, MethodsThatAreNotHereAreRefused) {
  for (const char* target :
       {"methods.distribution_matching.self_forcing.SelfForcingMethod",
        "methods.fine_tuning.dfsft.DiffusionForcingSFTMethod",
        "methods.fine_tuning.tfsft.TFSFTMethod", "methods.knowledge_distillation.kd.KDMethod",
        "methods.consistency_model.causal_cd.CausalCDMethod",
        "methods.distribution_matching.anyflow.AnyFlowMethod",
        "methods.rl.diffusion_nft.DiffusionNFTMethod"}) {
    const std::string yaml = str("method:\n  _target_: fastvideo.train.", target, "\n");
    const std::string refusal = refusal_of([&yaml] { config::parse_recipe(yaml, "theirs.yaml"); });
    EXPECT_TRUE(refusal.starts_with("unsupported_method: theirs.yaml:2:")) << refusal;
    EXPECT_EQ(info(Code::kUnsupportedMethod).exit_status, 2);
  }
  const std::string causal = refusal_of([] {
    config::parse_recipe(
        "models: {student: {_target_: fastvideo.train.models.wan.WanCausalModel}}\n",
        "theirs.yaml");
  });
  EXPECT_TRUE(causal.starts_with("unsupported_method: theirs.yaml:1:")) << causal;
}

TEST(FastVideoFiles, KeysWithoutMeaningAreNamedOnceAndMistakesAreNot) {
  const std::string file = R"(
models:
  student: {_target_: fastvideo.train.models.wan.WanModel, init_from: m, disable_custom_init_weights: true}
method: {_target_: fastvideo.train.methods.fine_tuning.finetune.FineTuneMethod}
training:
  data: {data_path: {rows_a: 2, rows_b: 1}}
  distributed: {pin_cpu_memory: true}
  model: {moba_config: {a: 1}}
pipeline: {vae_tiling: true}
)";
  std::vector<std::string> notes;
  const Recipe r = config::parse_recipe(file, "theirs.yaml", {}, &notes);
  EXPECT_EQ(r.training.data.data_path, "rows_a:2,rows_b:1");
  for (const char* word : {"models.student.disable_custom_init_weights", "pin_cpu_memory",
                           "moba_config", "vae_tiling"}) {
    EXPECT_TRUE(has_word(notes, word)) << word;
  }
  // In a file of ours the same key is a mistake.
  const std::string ours =
      replace_all(file, "fastvideo.train.methods.fine_tuning.finetune.FineTuneMethod", "finetune");
  EXPECT_TRUE(refusal_of([&ours] {
                config::parse_recipe(ours, "ours.yaml");
              }).starts_with("unknown_key: ours.yaml:"));
  // And an unknown key of theirs is one everywhere.
  const std::string wrong = replace_all(file, "vae_tiling", "vae_tilling");
  EXPECT_TRUE(refusal_of([&wrong] {
                config::parse_recipe(wrong, "theirs.yaml");
              }).starts_with("unknown_key: theirs.yaml:"));
}

// Its train.utils.config, its callbacks and DMD2Method.
TEST(FastVideoFiles, WhatAFileLeavesOutIsTheirs) {
  const std::string models =
      "models:\n  student: {_target_: x.WanModel, init_from: m}\n"
      "  teacher: {_target_: x.WanModel, init_from: m, trainable: false}\n"
      "  critic: {_target_: x.WanModel, init_from: m}\n";
  const std::string rest =
      "training:\n  distributed: {num_gpus: 4}\n"
      "  data: {data_path: d, num_height: 448, num_width: 832, num_frames: 77}\n";
  const auto read = [&](const std::string& more, std::vector<std::string>* notes = nullptr) {
    return config::parse_recipe(
        models + "method: {_target_: x.DMD2Method, rollout_mode: Sim}\n" + rest + more,
        "theirs.yaml", {}, notes);
  };
  const Recipe bare = read("");
  EXPECT_EQ(bare.training.distributed.sp_size, 4);
  EXPECT_EQ(config::global_batch(bare), 1);
  EXPECT_EQ(bare.training.checkpoint.checkpoints_total_limit, 0);
  EXPECT_EQ(bare.method.real_score_guidance_scale, 1);
  EXPECT_EQ(bare.method.rollout_mode, config::RolloutMode::kSimulate);
  EXPECT_EQ(bare.method.k_scope, config::KScope::kGroup);
  EXPECT_EQ(bare.callbacks.grad_clip.max_grad_norm, 0);
  EXPECT_EQ(bare.callbacks.ema.decay, 0);
  EXPECT_EQ(bare.callbacks.validation.every_steps, 0);

  const Recipe with = read(
      "callbacks:\n"
      "  grad_clip: {log_grad_norms: true}\n"
      "  average: {_target_: x.EMACallback}\n"
      "  validation: {pipeline_target: p, dataset_file: f}\n");
  EXPECT_EQ(with.callbacks.grad_clip.max_grad_norm, 1);
  EXPECT_EQ(with.callbacks.ema.decay, 0.9999);
  EXPECT_EQ(with.callbacks.validation.every_steps, 100);

  std::vector<std::string> notes;
  const Recipe trackers = config::parse_recipe(
      models + "method: {_target_: x.DMD2Method, rollout_mode: data, min_timestep_ratio: 0.1}\n" +
          rest +
          "  tracker: {trackers: [wandb, csv, swanlab]}\n"
          "  optimizer: {lr_scheduler: cosine, lr_num_cycles: 3}\npipeline: {flow_shift: 8}\n",
      "theirs.yaml", std::vector<config::Override>{{"models.student.flow_shift", "5"}}, &notes);
  EXPECT_EQ(trackers.training.tracker.trackers, std::vector<std::string>{"csv"});
  EXPECT_EQ(trackers.models.at("critic").flow_shift, 8);
  for (const char* word : {"wandb, swanlab: left out", "lr_num_cycles 3", "max_timestep_ratio",
                           "models.student.flow_shift 5"}) {
    EXPECT_TRUE(has_word(notes, word)) << word;
  }
}

TEST(TrainArguments, FlagsAndDottedKeysChangeAFile) {
  const Path file = Path(FASTWAN_SOURCE_DIR) / "recipes/wan2.1-1.3b-distill-vsa-64gpu.yaml";
  std::vector<std::string> notes;
  const Recipe r = assemble_recipe(
      file, "distill",
      split_train_arguments(words_of("--num-gpus 8 --hsdp-replicate-dim 1 --hsdp-shard-dim 8 "
                                     "--training.loop.max_train_steps=10 --set "
                                     "method.critic_warmup=3 --real-score-guidance-scale 2"),
                            {}),
      notes);
  EXPECT_EQ(r.training.distributed.hsdp_shard_dim, 8);
  EXPECT_EQ(r.training.loop.max_train_steps, 10);
  EXPECT_EQ(r.method.critic_warmup, 3);
  EXPECT_EQ(r.method.real_score_guidance_scale, 3);
  EXPECT_EQ(r.models.at("student").flow_shift, 8) << "what is not named stays";
  EXPECT_EQ(r.training.model.enable_gradient_checkpointing_type, config::Recompute::kFull);
}

TEST(TrainArguments, ACommandOfAnotherMethodThanItsFileIsRefused) {
  const Path file = Path(FASTWAN_SOURCE_DIR) / "recipes/wan2.1-1.3b-distill-vsa-64gpu.yaml";
  const std::string refusal = refusal_of([&file] {
    std::vector<std::string> notes;
    assemble_recipe(file, "finetune", {}, notes);
  });
  EXPECT_TRUE(refusal.starts_with("conflict: method finetune is asked for")) << refusal;
}

TEST(TrainArguments, OwnFlagsAreLeftToTheCommand) {
  const TrainArguments arguments = split_train_arguments(
      words_of("--config run.yaml --dry_run --seed 5"), {"--config", "--dry-run"});
  EXPECT_EQ(arguments.words, (std::vector<std::string>{"--config", "run.yaml", "--dry-run"}));
  EXPECT_EQ(arguments.flat_flags,
            (std::vector<std::pair<std::string, std::string>>{{"seed", "5"}}));
}

}  // namespace
}  // namespace fastwan::cli
