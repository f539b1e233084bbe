#include "cli/metadata.h"

#include <gtest/gtest.h>

#include "cli/options.h"
#include "cli/test_model.h"

namespace fastwan::cli {
namespace {

using config::Origin;

TEST(CommandOf, QuotesForTheShellAndPutsTheVideosOwnSeed) {
  const Json metadata = {{"prompt", "it's a kite"},
                         {"seed", 9},
                         {"settings",
                          {{"--model-path", "org/model"},
                           {"--seed", "7"},
                           {"--negative-prompt", "-blur"},
                           {"--lora", {"a.safetensors:0.5", "b c.safetensors"}},
                           {"--vae-tiling", "true"}}}};
  EXPECT_EQ(command_of(metadata),
            "fastwan generate --prompt 'it'\\''s a kite' --model-path org/model --seed 9 "
            "--negative-prompt=-blur --lora a.safetensors:0.5 --lora 'b c.safetensors' "
            "--vae-tiling");
}

// The file may be anybody's: what it claims must not become another command.
TEST(CommandOf, TakesNothingFromAForeignFileButKnownSettings) {
  const Json metadata = {{"prompt", "a"},
                         {"settings",
                          {{"; rm -rf ~ #", "x"},
                           {"--output", "/etc/passwd"},
                           {"--overwrite", "true"},
                           {"--width", "64; reboot"},
                           {"--height", {{"deep", 1}}}}}};
  EXPECT_EQ(command_of(metadata),
            "fastwan generate --prompt a --width '64; reboot' --height '{\"deep\":1}'");
  EXPECT_EQ(command_of({{"settings", 5}}), "fastwan generate");
  EXPECT_EQ(command_of(Json::object()), "fastwan generate");
}

TEST(RequestMetadata, LeadsBackToTheSameSettings) {
  TestModel model;
  config::Generate asked;
  asked.model_path.set(model.where().string(), Origin::kFlag);
  asked.prompt.set({"a kite"}, Origin::kFlag);
  asked.seed.set(7, Origin::kFlag);
  asked.flow_shift.set(0.1 + 0.2, Origin::kPresetTable);
  asked.dmd_denoising_steps.set({1000, 757}, Origin::kPresetTable);
  asked.output.set("x.mp4", Origin::kFlag);
  const layout::ModelFolder folder = layout::open_model_folder(model.where(), {});
  Json metadata = request_metadata(asked, folder);
  EXPECT_FALSE(metadata.at("settings").contains("--output"));
  EXPECT_FALSE(metadata.at("settings").contains("--prompt")) << "the callee adds each video's own";
  EXPECT_EQ(metadata.at("model_digest").get<std::string>(), model_digest(folder));

  config::Generate again;
  CLI::App app("", "generate");
  SettingFlags flags(app, again);
  std::vector<std::string> words;
  for (const auto& [name, value] : metadata.at("settings").items()) {
    words.push_back(name + "=" + value.get<std::string>());
  }
  ASSERT_TRUE(parse(app, prepare(words).words));
  flags.apply();
  EXPECT_EQ(*again.flow_shift, 0.1 + 0.2) << "numbers survive the text exactly";
  EXPECT_EQ(*again.dmd_denoising_steps, *asked.dmd_denoising_steps);
  EXPECT_EQ(*again.seed, 7);
}

TEST(ModelDigest, ChangesWithNamesAndSizesNotWithThePlace) {
  TestModel a;
  TestModel b;
  TestModel gateless(/*is_gated=*/false);
  const auto digest = [](const TestModel& model) {
    return model_digest(layout::open_model_folder(model.where(), {}));
  };
  EXPECT_EQ(digest(a), digest(b));
  EXPECT_NE(digest(a), digest(gateless));
}

}  // namespace
}  // namespace fastwan::cli
