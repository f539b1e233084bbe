#include <gtest/gtest.h>

#include "base/check.h"
#include "base/files.h"
#include "config/assign.h"
#include "config/presets.h"
#include "config/resolve.h"
#include "config/yaml_reader.h"

namespace fastwan::config {
namespace {

template <class Action>
std::string message_of(Action action, Code code) {
  try {
    action();
  } catch (const Failure& failure) {
    EXPECT_STREQ(info(failure.code()).name, info(code).name) << failure.what();
    return failure.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

ModelFacts fast_1_3b() {
  return {.class_name = "WanDMDPipeline",
          .vae_z = 16,
          .layers = 30,
          .width = 1536,
          .is_gated = true,
          .size_multiple = 16,
          .scheduler_shift = 3.0};
}

ModelFacts a14b() {
  return {.class_name = "WanPipeline",
          .vae_z = 16,
          .layers = 40,
          .width = 5120,
          .has_transformer_2 = true,
          .size_multiple = 16,
          .boundary_ratio = 0.875};
}

Generate asked(const std::string& yaml) {
  const TempFolder folder;
  const Path file = folder.where() / "run.yaml";
  write_durably(file, yaml);
  Generate g;
  read_run_file(file, g);
  return g;
}

TEST(YamlReader, RefusesASecondDocumentAndTextBehindTheFirst) {
  EXPECT_NO_THROW(read_yaml("---\nrequest: {prompt: a}\n", "run.yaml"));
  for (const char* bad : {"a: b\n---\nc: d\n", "{a: b\n},\nc: d\n", "{a: b} c", "{a: b}\n}\n"}) {
    EXPECT_THROW(read_yaml(bad, "run.yaml"), InvalidInput) << bad;
  }
}

TEST(YamlReader, RefusesControlBytesBeforeTheParserSeesThem) {
  EXPECT_NO_THROW(read_yaml("request: {prompt: \"a\\tb\"}\r\n", "run.yaml"));
  for (const char control : {'\0', '\x01', '\x1f', '\x7f'}) {
    const std::string text = std::string("request: {prompt: \"a") + control + "\"}";
    EXPECT_THROW(read_yaml(text, "run.yaml"), InvalidInput);
  }
}

TEST(YamlReader, ReadsARunFileWithNumbersInAnySpelling) {
  const Generate g = asked(
      "request:\n  prompt: a red kite\n  sampling: {height: 480, guidance_scale: 1.0e0, seed: 7}\n"
      "generator:\n  pipeline:\n    experimental:\n      dmd_denoising_steps: [1000, 500]\n");
  EXPECT_EQ(g.prompt.value, std::vector<std::string>{"a red kite"});
  EXPECT_EQ(*g.height, 480);
  EXPECT_EQ(*g.guidance_scale, 1.0);
  EXPECT_EQ(*g.seed, 7);
  EXPECT_EQ(*g.dmd_denoising_steps, (std::vector<int64_t>{1000, 500}));
  EXPECT_EQ(g.height.origin, Origin::kConfigFile);
}

TEST(YamlReader, NamesFileLineAndKeyOfEveryMistake) {
  const std::string unknown =
      message_of([] { asked("request:\n  sampling:\n    heigth: 480\n"); }, Code::kUnknownKey);
  EXPECT_NE(unknown.find("run.yaml:3:13: request.sampling.heigth is not a setting here. Did you "
                         "mean request.sampling.height?"),
            std::string::npos)
      << unknown;
  const std::string type =
      message_of([] { asked("request:\n  sampling:\n    height: tall\n"); }, Code::kBadValue);
  EXPECT_NE(type.find("run.yaml:3:13: request.sampling.height must be a whole number"),
            std::string::npos)
      << type;
  message_of([] { asked("request:\n  prompt: a\n  prompt: b\n"); }, Code::kDuplicateKey);
  message_of([] { asked("request:\n\tprompt: a\n"); }, Code::kBadConfig);
  message_of([] { asked("request: [1, {a: 2}]\n"); }, Code::kBadConfig);
  message_of([] { asked("- a\n- b\n"); }, Code::kBadConfig);
  message_of([] { asked("a: 1\n---\nb: 2\n"); }, Code::kBadConfig);
  message_of([] { asked("a: !!python/object x\n"); }, Code::kBadConfig);
  message_of([] { asked("request: \"\xff\"\n"); }, Code::kBadConfig);
}

TEST(YamlReader, RefusesDeepNestingBeforeItCanOverflowTheStack) {
  message_of([] { asked("a: " + std::string(100000, '[')); }, Code::kBadConfig);
  std::string dashes;
  for (int i = 0; i < 50000; ++i) {
    dashes += "- ";
  }
  message_of([&dashes] { asked(dashes + "x\n"); }, Code::kBadConfig);
}

TEST(FastVideo, RunFileIsReadWithItsRulesForSeedNoiseAndFrames) {
  const TempFolder folder;
  const Path file = folder.where() / "run.yaml";
  write_durably(file,
                "generator:\n  model_path: FastVideo/X\n  engine:\n    num_gpus: 1\n    offload:\n"
                "      dit_layerwise_offload: false\n      vae_cpu_offload: true\n    compile: "
                "{enabled: true}\n"
                "request:\n  sampling: {num_frames: 104}\n  output: {save_video: true}\n");
  Generate g;
  const std::vector<std::string> warnings = read_run_file(file, g);
  EXPECT_EQ(*g.rng, Rng::kTorch);
  EXPECT_EQ(*g.seed, 1024);
  EXPECT_EQ(*g.num_frames, 101);
  EXPECT_EQ(*g.offload, Offload::kStage);
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("compile.enabled"), std::string::npos) << warnings[0];
}

TEST(FastVideo, CodeFromAModelFolderIsNeverRun) {
  message_of([] { asked("generator:\n  trust_remote_code: true\n"); }, Code::kBadValue);
}

TEST(Override, ReachesASettingByItsDottedKey) {
  Generate g;
  apply_override("request.sampling.seed", "5", g);
  EXPECT_EQ(*g.seed, 5);
  message_of([&g] { apply_override("request.sampling.sed", "5", g); }, Code::kUnknownKey);
}

TEST(Assign, NumbersAreDecimalAndLocaleFree) {
  for (const char* text : {"832.5", "0x10", "", "99999999999999999999", " 5", "5 ", "+5", "1e3"}) {
    message_of([text] { to_int(text, {}, "--width"); }, Code::kBadValue);
  }
  EXPECT_EQ(to_int("-1", {}, "--seed"), -1);
  EXPECT_EQ(to_number("1e-5", {}, "x"), 1e-5);
  for (const char* text : {"nan", "inf", "1,5", "0x1p3", ""}) {
    message_of([text] { to_number(text, {}, "--flow-shift"); }, Code::kBadValue);
  }
}

TEST(Setting, AStrongerSourceIsNeverOverridden) {
  Setting<int64_t> setting;
  setting.set(1, Origin::kFlag);
  setting.set(2, Origin::kPresetTable);
  EXPECT_EQ(*setting, 1);
  setting.set(3, Origin::kFlag);
  EXPECT_EQ(*setting, 3);
}

TEST(Resolve, FewStepModelTakesItsPresetAndIgnoresTheBaseModelsScheduler) {
  Generate g;
  resolve(g, fast_1_3b(), std::nullopt);
  EXPECT_EQ(*g.sampler, Sampler::kDmd);
  EXPECT_EQ(*g.flow_shift, 8.0);
  EXPECT_EQ(*g.steps, 3);
  EXPECT_EQ(*g.guidance_scale, 1.0);
  EXPECT_EQ(*g.vsa_sparsity, 0.8);
  EXPECT_EQ(*g.attention_backend, AttentionBackend::kVsa);
  EXPECT_EQ(*g.compat, Compat::kFastvideo);
  EXPECT_EQ(*g.width, 832);
  EXPECT_EQ(*g.height, 448);
  EXPECT_EQ(*g.num_frames, 61);
  EXPECT_GE(*g.seed, 0);
}

TEST(Resolve, AnUnknownFewStepModelStillUsesShiftEight) {
  ModelFacts facts = fast_1_3b();
  facts.layers = 2;
  Generate g;
  resolve(g, facts, std::nullopt);
  EXPECT_EQ(*g.flow_shift, 8.0);
  EXPECT_EQ(*g.dmd_denoising_steps, (std::vector<int64_t>{1000, 757, 522}));
}

TEST(Resolve, FewStepRulesAreRefusedByName) {
  Generate steps;
  steps.steps.set(4, Origin::kFlag);
  EXPECT_NE(message_of([&] { resolve(steps, fast_1_3b(), std::nullopt); }, Code::kConflict)
                .find("--steps 4"),
            std::string::npos);
  Generate guidance;
  guidance.guidance_scale.set(3.0, Origin::kFlag);
  message_of([&] { resolve(guidance, fast_1_3b(), std::nullopt); }, Code::kConflict);
  Generate same_length;
  same_length.steps.set(3, Origin::kFlag);
  EXPECT_NO_THROW(resolve(same_length, fast_1_3b(), std::nullopt));
}

TEST(Resolve, IllegalSizesNameTheTwoNearest) {
  Generate g;
  g.height.set(481, Origin::kFlag);
  EXPECT_NE(message_of([&] { resolve(g, fast_1_3b(), std::nullopt); }, Code::kBadValue)
                .find("got 481. Nearest: 480, 496"),
            std::string::npos);
  Generate frames;
  frames.num_frames.set(80, Origin::kFlag);
  EXPECT_NE(message_of([&] { resolve(frames, fast_1_3b(), std::nullopt); }, Code::kBadValue)
                .find("Nearest: 77, 81"),
            std::string::npos);
  Generate preset;  // the user wrote no width: he reads where it comes from
  preset.preset.set("wan_t2v_1_3b", Origin::kFlag);
  const Preset folder = preset_from_json(
      parse_json(R"({"legal": {"width": [32, 128]}})", "fastwan.json"), "fastwan.json");
  EXPECT_NE(message_of([&] { resolve(preset, fast_1_3b(), folder); }, Code::kBadValue)
                .find("got 832, from --preset wan_t2v_1_3b. Nearest: 128"),
            std::string::npos);
}

TEST(Resolve, SecondsAreRoundedToALegalNumberOfFrames) {
  Generate g;
  g.seconds.set(5.0, Origin::kFlag);
  resolve(g, fast_1_3b(), std::nullopt);
  EXPECT_EQ(*g.num_frames, 81);
  Generate both;
  both.seconds.set(5.0, Origin::kFlag);
  both.num_frames.set(81, Origin::kFlag);
  message_of([&] { resolve(both, fast_1_3b(), std::nullopt); }, Code::kConflict);
}

TEST(Resolve, FolderPresetBeatsTheTableAndAFlagBeatsBoth) {
  const Preset folder = preset_from_json(
      parse_json(R"({"width": 64, "height": 48, "num_frames": 9, "legal": {"width": [32, 128]}})",
                 "fastwan.json"),
      "fastwan.json");
  Generate g;
  g.height.set(64, Origin::kFlag);
  resolve(g, fast_1_3b(), folder);
  EXPECT_EQ(*g.width, 64);
  EXPECT_EQ(*g.height, 64);
  Generate outside;
  outside.width.set(256, Origin::kFlag);
  message_of([&] { resolve(outside, fast_1_3b(), folder); }, Code::kBadValue);
  message_of(
      [] { preset_from_json(parse_json(R"({"widht": 64})", "fastwan.json"), "fastwan.json"); },
      Code::kUnknownKey);
}

TEST(Resolve, TwoTransformersTakeTwoScalesAndABoundary) {
  Generate g;
  resolve(g, a14b(), std::nullopt);
  EXPECT_EQ(*g.guidance_scale, 4.0);
  EXPECT_EQ(*g.guidance_scale_2, 3.0);
  EXPECT_EQ(*g.boundary_ratio, 0.875);
  EXPECT_EQ(*g.flow_shift, 12.0);
  Generate one;
  one.guidance_scale.set(6.0, Origin::kFlag);
  resolve(one, a14b(), std::nullopt);
  EXPECT_EQ(*one.guidance_scale_2, 6.0);
  Generate misplaced;
  misplaced.guidance_scale_2.set(3.0, Origin::kFlag);
  ModelFacts facts = a14b();
  facts.has_transformer_2 = false;
  message_of([&] { resolve(misplaced, facts, std::nullopt); }, Code::kConflict);
}

TEST(Resolve, DenseOnGatedWeightsSaysThatGatesAreDropped) {
  Generate g;
  g.attention_backend.set(AttentionBackend::kDense, Origin::kFlag);
  const std::vector<std::string> notes = resolve(g, fast_1_3b(), std::nullopt);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("gates are dropped"), std::string::npos);
}

// A sparse student without gates says in its folder that it is one.
TEST(Resolve, TheFoldersBackendCountsUntilTheUserNamesOne) {
  ModelFacts facts = fast_1_3b();
  facts.is_gated = false;
  const Preset own = preset_from_json({{"attention_backend", "vsa"}}, "fastwan.json");
  EXPECT_EQ(to_json(own).at("attention_backend"), "vsa");
  Generate g;
  resolve(g, facts, own);
  EXPECT_EQ(*g.attention_backend, AttentionBackend::kVsa);
  Generate dense;
  dense.attention_backend.set(AttentionBackend::kDense, Origin::kFlag);
  resolve(dense, facts, own);
  EXPECT_EQ(*dense.attention_backend, AttentionBackend::kDense);
  Generate plain;
  resolve(plain, facts, std::nullopt);
  EXPECT_EQ(*plain.attention_backend, AttentionBackend::kDense);
  message_of(
      [] {
        preset_from_json({{"attention_backend", "sparse"}}, "fastwan.json");
      },
      Code::kBadValue);
}

// A student that was trained at shifted timesteps says in its folder that its list is not verbatim.
TEST(Resolve, TheFolderSaysWhetherItsTimestepsAreBaseOnes) {
  const Preset own = preset_from_json(
      {{"dmd_denoising_steps", {1000, 500}}, {"warp_denoising_step", true}}, "fastwan.json");
  EXPECT_EQ(to_json(own).at("warp_denoising_step"), true);
  Generate g;
  resolve(g, fast_1_3b(), own);
  EXPECT_TRUE(*g.warp_denoising_step);
  Generate verbatim;
  verbatim.warp_denoising_step.set(false, Origin::kFlag);
  resolve(verbatim, fast_1_3b(), own);
  EXPECT_FALSE(*verbatim.warp_denoising_step);
  Generate plain;
  resolve(plain, fast_1_3b(), std::nullopt);
  EXPECT_FALSE(*plain.warp_denoising_step);
  Generate many;
  many.sampler.set(Sampler::kEuler, Origin::kFlag);
  many.warp_denoising_step.set(true, Origin::kFlag);
  message_of([&] { resolve(many, fast_1_3b(), std::nullopt); }, Code::kConflict);
}

TEST(Resolve, OnlyAModelThatTakesAnImageGetsOne) {
  Generate g;
  g.image.set("a.png", Origin::kFlag);
  message_of([&] { resolve(g, fast_1_3b(), std::nullopt); }, Code::kUnsupportedModel);
}

TEST(Resolve, FitWithoutAnImageIsSaidToHaveNoEffect) {
  Generate g;
  g.fit.set(Fit::kPad, Origin::kFlag);
  const std::vector<std::string> notes = resolve(g, fast_1_3b(), std::nullopt);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("--fit"), std::string::npos);
}

TEST(Presets, AreFoundByFactsAndByNearestName) {
  EXPECT_EQ(preset_for(fast_1_3b())->name, "fast_wan_t2v_480p");
  EXPECT_EQ(preset_for(a14b())->name, "wan_2_2_t2v_a14b");
  EXPECT_EQ(preset_for(ModelFacts{.class_name = "WanPipeline"}), nullptr);
  EXPECT_NE(message_of([] { preset_named("wan_t2v_1_3"); }, Code::kBadValue)
                .find("Did you mean wan_t2v_1_3b?"),
            std::string::npos);
}

TEST(BestOutputSize, KeepsTheShapeWithinTheArea) {
  // Values of Wan2.2's best_output_size for dw = dh = 32.
  const Size wide = best_output_size({1920, 1080}, 704 * 1280, 32);
  EXPECT_EQ(wide.width, 1248);
  EXPECT_EQ(wide.height, 704);
  const Size square = best_output_size({500, 500}, 704 * 1280, 32);
  EXPECT_EQ(square.width, 960);
  EXPECT_EQ(square.height, 928);
  const Size tall = best_output_size({300, 900}, 704 * 1280, 32);
  EXPECT_EQ(tall.width, 544);
  EXPECT_EQ(tall.height, 1632);
}

}  // namespace
}  // namespace fastwan::config
