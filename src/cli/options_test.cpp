#include "cli/options.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "cli/aliases.h"

namespace fastwan::cli {
namespace {

using Words = std::vector<std::string>;

TEST(Prepare, UnderscoresAndDashesAreOne) {
  EXPECT_EQ(prepare({"--num_frames", "5", "--guidance_scale=3"}).words,
            (Words{"--num-frames", "5", "--guidance-scale=3"}));
  EXPECT_EQ(prepare({"-p", "a_b", "--output=x_y.mp4"}).words,
            (Words{"-p", "a_b", "--output=x_y.mp4"}))
      << "values keep theirs";
}

TEST(Prepare, DottedOverridesAreTakenOut) {
  const Arguments out = prepare({"--request.sampling.seed=5", "--set", "generator.engine.threads=2",
                                 "--request.sampling.height", "64", "--seed", "1"});
  EXPECT_EQ(out.words, (Words{"--seed", "1"}));
  ASSERT_EQ(out.overrides.size(), 3u);
  EXPECT_EQ(out.overrides[0], (std::pair<std::string, std::string>("request.sampling.seed", "5")));
  EXPECT_EQ(out.overrides[1].first, "generator.engine.threads");
  EXPECT_EQ(out.overrides[2].second, "64");
  EXPECT_THROW(prepare({"--set", "server.port=1"}), InvalidInput);
  EXPECT_THROW(prepare({"--set", "seed"}), InvalidInput);
  EXPECT_THROW(prepare({"--request.sampling.seed"}), InvalidInput);
}

TEST(Prepare, NamesOfWanAndStableDiffusionCppBecomeOurs) {
  const Arguments wan = prepare({"--task", "t2v-1.3B", "--ckpt_dir", "m", "--offload_model", "True",
                                 "--t5_cpu", "--sample_shift=8", "--sample_guide_scale", "5",
                                 "--base_seed", "3", "--save_file", "a.mp4", "--size", "832*480"});
  EXPECT_EQ(wan.words, (Words{"--model-path", "m", "--offload", "stage", "--flow-shift", "8",
                              "--guidance-scale", "5", "--seed", "3", "--output", "a.mp4",
                              "--width", "832", "--height", "480"}));
  EXPECT_EQ(wan.notes.size(), 8u) << "--size is ours and needs no word";
  const Arguments sd =
      prepare({"-M", "vid_gen", "--diffusion-model", "w.safetensors", "--t5xxl", "t",
               "--video-frames", "33", "--cfg-scale", "6", "--offload-to-cpu", "--diffusion-fa"});
  EXPECT_EQ(sd.words, (Words{"--model-path", "w.safetensors", "--text-encoder", "t", "--num-frames",
                             "33", "--guidance-scale", "6", "--offload", "stage"}));
  EXPECT_EQ(prepare({"--stream-layers"}).words, (Words{"--offload", "layer"}));
  EXPECT_EQ(prepare({"--auto-fit"}).words, (Words{"--offload", "auto"}));
  EXPECT_THROW(prepare({"-M", "img_gen"}), InvalidInput);
  EXPECT_THROW(prepare({"--size", "big"}), InvalidInput);
  EXPECT_THROW(prepare({"--offload_model", "maybe"}), InvalidInput);
}

struct Parsed {
  config::Generate settings;
  explicit Parsed(const Words& words) {
    CLI::App app("", "generate");
    SettingFlags flags(app, settings);
    parse(app, prepare(words).words);
    flags.apply();
  }
};

Code code_of(const Words& words, const char* part) {
  try {
    const Parsed parsed(words);
  } catch (const Failure& failure) {
    EXPECT_NE(std::string(failure.what()).find(part), std::string::npos) << failure.what();
    return failure.code();
  }
  return Code::kInternal;
}

TEST(SettingFlags, ValuesReachTheirSettingsAndRememberTheFlag) {
  const Parsed parsed({"-p", "-a kite-", "--seed", "-1", "-W", "64", "--overwrite", "--lora", "a",
                       "--lora", "b:0.5", "--dmd-denoising-steps", "1000,757",
                       "--num-inference-steps", "2", "--no-vae-tiling"});
  const config::Generate& g = parsed.settings;
  EXPECT_EQ(*g.prompt, Words{"-a kite-"});
  EXPECT_EQ(g.prompt.origin, config::Origin::kFlag);
  EXPECT_EQ(*g.seed, -1);
  EXPECT_EQ(*g.width, 64);
  EXPECT_TRUE(*g.overwrite);
  EXPECT_EQ(*g.lora, (Words{"a", "b:0.5"}));
  EXPECT_EQ(*g.dmd_denoising_steps, (std::vector<int64_t>{1000, 757}));
  EXPECT_EQ(*g.steps, 2) << "--num-inference-steps is FastVideo's name of --steps";
  EXPECT_TRUE(g.vae_tiling.is_set);
  EXPECT_FALSE(*g.vae_tiling);
  EXPECT_FALSE(g.height.is_set);
}

TEST(Parse, AnOptionGivenTwiceIsSaidToBeThat) {
  const auto refusal = [](const Words& words) {
    CLI::App app("about", "test");
    int64_t number = 0;
    app.add_option("--num-frames", number, "");
    try {
      parse(app, words);
    } catch (const InvalidInput& error) {
      return std::string(error.what());
    }
    return std::string("taken");
  };
  EXPECT_EQ(refusal({"--num-frames", "5"}), "taken");
  EXPECT_EQ(refusal({"--num-frames", "5", "--num-frames", "9"}), "--num-frames is given 2 times");
  EXPECT_EQ(refusal({"--num-frames"}), "--num-frames needs a value");
}

TEST(SettingFlags, MistakesAreNamedWithWhatIsNear) {
  EXPECT_EQ(code_of({"--widht", "64"}, "Did you mean --width?"), Code::kUnknownOption);
  EXPECT_EQ(code_of({"--zzzzzzzzzz"}, "--zzzzzzzzzz is not an option"), Code::kUnknownOption);
  EXPECT_EQ(code_of({"--seed", "1", "--seed", "2"}, "--seed is given 2 times"), Code::kConflict);
  EXPECT_EQ(code_of({"--seed", "1", "--base_seed", "2"}, "--seed is given 2 times"),
            Code::kConflict);
  EXPECT_EQ(code_of({"--height"}, "--height needs a value"), Code::kUsage);
  EXPECT_EQ(code_of({"--width="}, "--width"), Code::kUsage);
  EXPECT_EQ(code_of({"stray"}, "unexpected argument stray"), Code::kUsage);
  for (const char* width : {"832.5", "0x40", "99999999999999999999", "-5", "1e9", "64px"}) {
    EXPECT_EQ(code_of({std::string("--width=") + width}, "--width"), Code::kBadValue) << width;
  }
  for (const char* sparsity : {"1.0", "-0.1", "nan", "inf"}) {
    EXPECT_EQ(code_of({"--VSA-sparsity", sparsity}, "--VSA-sparsity"), Code::kBadValue) << sparsity;
  }
  EXPECT_EQ(code_of({"--sampler", "ddim"}, "unipc"), Code::kBadValue);
}

}  // namespace
}  // namespace fastwan::cli
