#include "cli/request.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "base/check.h"
#include "cli/hub_cache.h"
#include "cli/test_model.h"

namespace fastwan::cli {
namespace {

using config::Origin;

template <class Action>
Code code_of(Action action, const char* part = "") {
  try {
    action();
  } catch (const Failure& failure) {
    EXPECT_NE(std::string(failure.what()).find(part), std::string::npos) << failure.what();
    return failure.code();
  }
  return Code::kInternal;
}

config::Generate request_for(const TestModel& model) {
  config::Generate settings;
  settings.model_path.set(model.where().string(), Origin::kFlag);
  return settings;
}

TEST(OpenModel, GatesComeFromTheWeightsNames) {
  TestModel gated(/*is_gated=*/true);
  TestModel plain(/*is_gated=*/false);
  EXPECT_TRUE(facts_of(open_model(request_for(gated))).is_gated);
  EXPECT_FALSE(facts_of(open_model(request_for(plain))).is_gated);
  const config::ModelFacts facts = facts_of(open_model(request_for(gated)));
  EXPECT_EQ(facts.width, 24);
  EXPECT_EQ(facts.layers, 2);
  EXPECT_EQ(facts.size_multiple, 16);
}

TEST(OpenModel, WithoutAModelItAsksForOne) {
  EXPECT_EQ(code_of([] { open_model({}); }, "--model-path"), Code::kUsage);
}

TEST(OpenModel, MissingComponentsAreNamedAllAtOnce) {
  TestModel model;
  std::filesystem::remove_all(model.where() / "vae");
  std::filesystem::remove_all(model.where() / "tokenizer");
  EXPECT_EQ(code_of([&] { open_model(request_for(model)); }, "vae, tokenizer are missing"),
            Code::kBadModel);
}

TEST(ResolveRequest, TheFoldersOwnPresetGivesWhatNobodyAsked) {
  TestModel model;
  config::Generate settings = request_for(model);
  settings.width.set(32, Origin::kFlag);
  resolve_request(settings, open_model(settings));
  EXPECT_EQ(*settings.width, 32);
  EXPECT_EQ(*settings.height, 32);
  EXPECT_EQ(settings.height.origin, Origin::kFolder);
  EXPECT_EQ(*settings.num_frames, 9);
  EXPECT_EQ(*settings.sampler, config::Sampler::kDmd);
  EXPECT_EQ(*settings.steps, 3);
  EXPECT_GE(*settings.seed, 0);
}

TEST(ResolveRequest, IllegalSizesNameTheNearestLegalOnes) {
  TestModel model;
  const auto resolve_with = [&](auto change) {
    config::Generate settings = request_for(model);
    change(settings);
    resolve_request(settings, open_model(settings));
  };
  EXPECT_EQ(code_of([&] { resolve_with([](auto& g) { g.num_frames.set(8, Origin::kFlag); }); },
                    "Nearest: 5, 9"),
            Code::kBadValue);
  EXPECT_EQ(code_of([&] { resolve_with([](auto& g) { g.height.set(33, Origin::kFlag); }); },
                    "Nearest: 32, 48"),
            Code::kBadValue);
  EXPECT_EQ(code_of([&] { resolve_with([](auto& g) { g.image.set("no.png", Origin::kFlag); }); },
                    "--image"),
            Code::kUnsupportedModel);
}

TEST(CollectPrompts, OneSourceSaysWhatToShow) {
  TempFolder folder;
  const Path file = folder.where() / "prompts.txt";
  write_durably(file, "a kite\r\n\n  a boat  \n");
  config::Generate settings;
  EXPECT_EQ(code_of([&] { collect_prompts(settings); }, "--prompt"), Code::kUsage);
  settings.prompt_file.set(file.string(), Origin::kFlag);
  EXPECT_EQ(collect_prompts(settings), (std::vector<std::string>{"a kite", "a boat"}));
  settings.prompt.set({"from a run file"}, Origin::kConfigFile);
  EXPECT_EQ(collect_prompts(settings).size(), 2u) << "the flag is stronger";
  settings.prompt.set({"a flag too"}, Origin::kFlag);
  EXPECT_EQ(code_of([&] { collect_prompts(settings); }), Code::kConflict);
  settings.prompt_file = {};
  EXPECT_EQ(collect_prompts(settings), std::vector<std::string>{"a flag too"});
}

TEST(CollectPrompts, RefusesWhatIsNoPrompt) {
  const auto with = [](const std::string& prompt) {
    config::Generate settings;
    settings.prompt.set({prompt}, Origin::kFlag);
    return code_of([&] { collect_prompts(settings); });
  };
  EXPECT_EQ(with(""), Code::kUsage);
  EXPECT_EQ(with(" \t"), Code::kUsage);
  EXPECT_EQ(with("\xff"), Code::kBadValue);
  EXPECT_EQ(with(std::string(32'001, 'x')), Code::kBadValue);
  EXPECT_EQ(with(std::string(32'000, 'x')), Code::kInternal) << "the longest that is taken";
  config::Generate embeds;
  embeds.prompt_embeds.set("e.safetensors", Origin::kFlag);
  EXPECT_EQ(collect_prompts(embeds), std::vector<std::string>{""});
}

TEST(ReadSources, EnvironmentIsWeakerThanFlagsAndStrongerThanTheRunFile) {
  TempFolder folder;
  const Path file = folder.where() / "run.yaml";
  write_durably(file, "generator:\n  engine:\n    threads: 1\nrequest:\n  sampling: {seed: 5}\n");
  ::setenv("FASTWAN_THREADS", "2", 1);
  ::setenv("FASTWAN_CONFIG", file.c_str(), 1);
  config::Generate settings;
  read_sources(settings, "", {});
  EXPECT_EQ(*settings.threads, 2);
  EXPECT_EQ(*settings.seed, 5);
  config::Generate flagged;
  flagged.threads.set(3, Origin::kFlag);
  read_sources(flagged, "", {{"request.sampling.seed", "6"}});
  EXPECT_EQ(*flagged.threads, 3);
  EXPECT_EQ(*flagged.seed, 6);
  ::setenv("FASTWAN_THREADS", "many", 1);
  EXPECT_EQ(code_of([&] { read_sources(settings, "", {}); }, "FASTWAN_THREADS"), Code::kBadValue);
  ::unsetenv("FASTWAN_THREADS");
  ::unsetenv("FASTWAN_CONFIG");
  EXPECT_EQ(code_of([&] { read_sources(settings, "no.yaml", {}); }, "no.yaml"), Code::kNotFound);
}

TEST(GpuIndex, KnowsFourWords) {
  EXPECT_EQ(gpu_index("auto"), std::nullopt);
  EXPECT_EQ(gpu_index("cpu"), std::nullopt);
  EXPECT_EQ(gpu_index("cuda"), 0u);
  EXPECT_EQ(gpu_index("cuda:3"), 3u);
  for (const char* bad : {"", "tpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cuda:1.5"}) {
    EXPECT_EQ(code_of([bad] { gpu_index(bad); }, "--device"), Code::kBadValue) << bad;
  }
  EXPECT_EQ(code_of([] { check_device("cuda:77"); }, "cuda:77"), Code::kNoGpu);
}

TEST(CheckInputsExist, NamesTheFlagAndTheFile) {
  config::Generate settings;
  check_inputs_exist(settings);
  settings.lora.set({"no.safetensors:0.5"}, Origin::kFlag);
  EXPECT_EQ(code_of([&] { check_inputs_exist(settings); }, "--lora no.safetensors: "),
            Code::kNotFound);
}

class HubCache : public ::testing::Test {
 protected:
  HubCache() { ::setenv("HF_HUB_CACHE", folder_.where().c_str(), 1); }
  ~HubCache() override { ::unsetenv("HF_HUB_CACHE"); }
  TempFolder folder_;
};

TEST_F(HubCache, AReferenceLeadsToItsSnapshot) {
  const Path model = folder_.where() / "models--org--name";
  std::filesystem::create_directories(model / "snapshots" / "abc123");
  std::filesystem::create_directories(model / "refs");
  write_durably(model / "refs" / "main", "abc123\n");
  EXPECT_EQ(find_model("org/name", ""), model / "snapshots" / "abc123");
  EXPECT_EQ(find_model("org/name", "abc123"), model / "snapshots" / "abc123");
  EXPECT_EQ(code_of([] { find_model("org/name", "v2"); }, "hf download org/name --revision v2"),
            Code::kNotFound);
}

TEST_F(HubCache, AnIdThatIsNotThereComesWithTheCommandThatDownloadsIt) {
  EXPECT_EQ(code_of([] { find_model("org/absent", ""); }, "hf download org/absent"),
            Code::kNotFound);
  EXPECT_EQ(code_of([] { find_model("no/such/folder", ""); }, "no such file"), Code::kNotFound);
  EXPECT_EQ(code_of([] { find_model("../there-is-no-such-folder", ""); }, "no such file"),
            Code::kNotFound);
}

TEST_F(HubCache, ARecipesIdsAreFoundAndWhatIsNowhereIsNamedByItsKey) {
  const Path model = folder_.where() / "models--org--name";
  std::filesystem::create_directories(model / "snapshots" / "abc123");
  std::filesystem::create_directories(model / "refs");
  write_durably(model / "refs" / "main", "abc123");
  config::Recipe recipe;
  recipe.models["student"].init_from = "org/name";
  recipe.models["teacher"].init_from = folder_.where().string();
  recipe.training.model_path = "org/name";
  EXPECT_EQ(find_models(recipe),
            (std::map<std::string, Path>{{"org/name", model / "snapshots" / "abc123"}}));
  recipe.models["critic"].init_from = "org/absent";
  EXPECT_EQ(code_of([&] { find_models(recipe); }, "models.critic.init_from org/absent is neither"),
            Code::kNotFound);
  recipe.models["critic"].init_from = "no/such/folder";
  EXPECT_EQ(
      code_of([&] { find_models(recipe); }, "models.critic.init_from no/such/folder: no such"),
      Code::kNotFound);
  recipe.models["critic"] = {.kind = config::NetworkKind::kFeatureNet,
                             .init_from = "no/such/folder",
                             .init = config::WeightsInit::kRandom};
  EXPECT_EQ(find_models(recipe).size(), 1u) << "a feature net from nothing needs no folder";
}

}  // namespace
}  // namespace fastwan::cli
