#include <algorithm>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "models/layout/configs.h"
#include "models/layout/published.h"
#include "models/layout/tensors.h"

namespace fastwan::layout {
namespace {

WanDitConfig dit(int64_t heads, int64_t layers, int64_t ffn, int64_t channels, bool is_gated) {
  return {.num_heads = heads,
          .head_dim = 128,
          .num_layers = layers,
          .ffn_dim = ffn,
          .in_channels = channels,
          .out_channels = channels,
          .text_dim = 4096,
          .freq_dim = 256,
          .is_gated = is_gated};
}

void expect_size(const std::vector<TensorSpec>& tensors, int64_t parameters, std::size_t count) {
  EXPECT_EQ(num_parameters(tensors), parameters);
  EXPECT_EQ(tensors.size(), count);
}

// Counts of the published models, from their class definitions in diffusers and transformers.
TEST(Tensors, CountsAreThoseOfThePublishedModels) {
  expect_size(tensors_of(dit(12, 30, 8960, 16, false)), 1'418'996'800, 825);
  expect_size(tensors_of(dit(12, 30, 8960, 16, true)), 1'489'821'760, 885);
  expect_size(tensors_of(dit(40, 40, 13824, 16, false)), 14'288'491'584, 1095);
  expect_size(tensors_of(dit(40, 40, 13824, 16, true)), 15'337'272'384, 1175);
  expect_size(tensors_of(dit(24, 30, 14336, 48, false)), 4'999'787'712, 825);
  expect_size(tensors_of(dit(24, 30, 14336, 48, true)), 5'282'995'392, 885);
  expect_size(tensors_of(WanVaeConfig{}), 126'892'531, 194);
  expect_size(tensors_of(WanVaeConfig{.base_dim = 160,
                                      .decoder_base_dim = 256,
                                      .z_dim = 48,
                                      .is_residual = true,
                                      .in_channels = 12,
                                      .out_channels = 12,
                                      .patch_size = 2,
                                      .scale_factor_spatial = 16}),
              704'688'668, 196);
  expect_size(tensors_of(Umt5Config{.d_model = 4096,
                                    .d_kv = 64,
                                    .num_heads = 64,
                                    .d_ff = 10240,
                                    .num_layers = 24,
                                    .vocab_size = 256384}),
              5'680'910'336, 242);
}

TEST(Names, OriginalWanSwapsNorm2AndNorm3) {
  EXPECT_EQ(diffusers_name_of_original("blocks.3.norm3.weight"), "blocks.3.norm2.weight");
  EXPECT_EQ(diffusers_name_of_original("model.diffusion_model.blocks.0.self_attn.q.weight"),
            "blocks.0.attn1.to_q.weight");
  EXPECT_EQ(diffusers_name_of_original("blocks.0.cross_attn.norm_k.weight"),
            "blocks.0.attn2.norm_k.weight");
  EXPECT_EQ(diffusers_name_of_original("blocks.0.ffn.0.bias"), "blocks.0.ffn.net.0.proj.bias");
  EXPECT_EQ(diffusers_name_of_original("blocks.0.modulation"), "blocks.0.scale_shift_table");
  EXPECT_EQ(diffusers_name_of_original("head.modulation"), "scale_shift_table");
  EXPECT_EQ(diffusers_name_of_original("head.head.weight"), "proj_out.weight");
  EXPECT_EQ(diffusers_name_of_original("time_projection.1.bias"),
            "condition_embedder.time_proj.bias");
}

TEST(Names, FastVideosInternalNamesAreKnown) {
  EXPECT_EQ(diffusers_name_of_fastvideo("blocks.1.to_q.weight"), "blocks.1.attn1.to_q.weight");
  EXPECT_EQ(diffusers_name_of_fastvideo("blocks.1.to_out.bias"), "blocks.1.attn1.to_out.0.bias");
  EXPECT_EQ(diffusers_name_of_fastvideo("blocks.1.attn2.to_out.bias"),
            "blocks.1.attn2.to_out.0.bias");
  EXPECT_EQ(diffusers_name_of_fastvideo("blocks.1.ffn.fc_in.weight"),
            "blocks.1.ffn.net.0.proj.weight");
  EXPECT_EQ(diffusers_name_of_fastvideo("blocks.1.to_gate_compress.weight"),
            "blocks.1.to_gate_compress.weight");
  EXPECT_EQ(diffusers_name_of_fastvideo("condition_embedder.time_modulation.linear.weight"),
            "condition_embedder.time_proj.weight");
  EXPECT_EQ(diffusers_name_of_fastvideo("blocks.1.self_attn_residual_norm.norm.bias"),
            "blocks.1.norm2.bias");
}

// Every Diffusers name is already right: a rename table must leave it alone.
TEST(Names, DiffusersNamesAreLeftAlone) {
  for (const TensorSpec& tensor : tensors_of(dit(12, 2, 64, 16, true))) {
    EXPECT_EQ(diffusers_name_of_original(tensor.name), tensor.name);
    EXPECT_EQ(diffusers_name_of_fastvideo(tensor.name), tensor.name);
  }
}

Code code_of(const std::string& text, void (*read)(const Json&)) {
  try {
    read(parse_json(text, "config.json"));
  } catch (const Failure& failure) {
    return failure.code();
  }
  return Code::kInternal;
}

TEST(Configs, ClipConditionedModelsAreRefusedByName) {
  EXPECT_EQ(
      code_of(
          R"({"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "ffn_dim": 13824,
                        "in_channels": 36, "text_dim": 4096, "freq_dim": 256, "image_dim": 1280})",
          [](const Json& json) { read_wan_dit(json, "config.json"); }),
      Code::kUnsupportedModel);
}

TEST(Configs, ImageModelsAreKnownByName) {
  for (const char* name : {"Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "models/Wan2.1-I2V-14B-720P",
                           "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"}) {
    EXPECT_TRUE(is_clip_conditioned(name)) << name;
  }
  for (const char* name : {"Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
                           "Wan2.1-I2V-mine/student", ""}) {
    EXPECT_FALSE(is_clip_conditioned(name)) << name;
  }
}

TEST(Configs, HostileSizesAreRefused) {
  for (const char* heads : {"0", "-1", "99999999999", "1.5", "\"12\""}) {
    const std::string text =
        std::string(R"({"num_attention_heads": )") + heads +
        R"(, "attention_head_dim": 128, "num_layers": 1, "ffn_dim": 8, "in_channels": 16, "text_dim": 8, "freq_dim": 8})";
    const Code code = code_of(text, [](const Json& json) { read_wan_dit(json, "config.json"); });
    EXPECT_TRUE(code == Code::kBadModel || code == Code::kBadJson) << heads;
  }
}

TEST(Configs, BucketsThatHaveNoHalvesAreRefused) {
  const auto code_with = [](const std::string& keys) {
    return code_of(R"({"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2,
                       "vocab_size": 300)" +
                       keys + "}",
                   [](const Json& json) { read_umt5(json, "config.json"); });
  };
  constexpr Code kNoFailure = Code::kInternal;
  EXPECT_EQ(code_with(""), kNoFailure);
  EXPECT_EQ(code_with(R"(, "relative_attention_num_buckets": 1)"), Code::kBadModel);
  EXPECT_EQ(code_with(R"(, "relative_attention_max_distance": 8)"), Code::kBadModel);
  EXPECT_EQ(code_with(R"(, "relative_attention_max_distance": 9)"), kNoFailure);
}

TEST(Configs, TheOriginalWanConfigIsUnderstood) {
  const WanDitConfig config = read_wan_dit(
      parse_json(R"({"model_type": "t2v", "dim": 1536, "ffn_dim": 8960, "freq_dim": 256,
      "in_dim": 16, "num_heads": 12, "num_layers": 30, "out_dim": 16, "eps": 1e-06})",
                 "config.json"),
      "config.json");
  EXPECT_EQ(num_parameters(tensors_of(config)), 1'418'996'800);
}

TEST(Configs, AbsentKeysOfTheVaeHaveTheDefaultsOf21) {
  const std::string sixteen = "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]";
  const WanVaeConfig config = read_wan_vae(
      parse_json("{\"latents_mean\": " + sixteen + ", \"latents_std\": " + sixteen + "}",
                 "config.json"),
      "config.json");
  EXPECT_EQ(config.scale_factor_spatial, 8);
  EXPECT_EQ(config.decoder_base_dim, 96);
  EXPECT_FALSE(config.is_residual);
}

}  // namespace
}  // namespace fastwan::layout
