#include "models/layout/lora_keys.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::layout {
namespace {

void expect_key(const std::string& text, const char* module, LoraPart part, LoraStyle style) {
  const std::optional<LoraKey> key = read_lora_key(text);
  ASSERT_TRUE(key) << text;
  EXPECT_EQ(key->module, module) << text;
  EXPECT_EQ(key->part, part) << text;
  EXPECT_EQ(key->style, style) << text;
}

TEST(LoraKeys, TheThreeStylesNameTheSameModule) {
  for (const auto& [text, style] :
       {std::pair{"transformer.blocks.7.attn1.to_q.lora_A.weight", LoraStyle::kPeft},
        std::pair{"base_model.model.blocks.7.attn1.to_q.lora_A.default.weight", LoraStyle::kPeft},
        std::pair{"blocks.7.attn1.to_q.lora_A.weight", LoraStyle::kPeft},
        std::pair{"diffusion_model.blocks.7.self_attn.q.lora_down.weight", LoraStyle::kOriginal},
        std::pair{"blocks.7.self_attn.q.lora_A.weight", LoraStyle::kOriginal},
        std::pair{"lora_unet_blocks_7_self_attn_q.lora_down.weight", LoraStyle::kMusubi}}) {
    expect_key(text, "blocks.7.attn1.to_q", LoraPart::kDown, style);
  }
}

TEST(LoraKeys, PartsAreToldApart) {
  const std::string base = "diffusion_model.blocks.0.ffn.2";
  const char* module = "blocks.0.ffn.net.2";
  expect_key(base + ".lora_up.weight", module, LoraPart::kUp, LoraStyle::kOriginal);
  expect_key(base + ".alpha", module, LoraPart::kAlpha, LoraStyle::kOriginal);
  expect_key(base + ".diff", module, LoraPart::kDiff, LoraStyle::kOriginal);
  expect_key(base + ".diff_b", module, LoraPart::kDiffBias, LoraStyle::kOriginal);
}

TEST(LoraKeys, MusubiUnderscoresAreDotsUnlessAModuleHasThem) {
  expect_key("lora_unet_blocks_12_cross_attn_o.alpha", "blocks.12.attn2.to_out.0", LoraPart::kAlpha,
             LoraStyle::kMusubi);
  expect_key("lora_unet_blocks_12_ffn_0.lora_up.weight", "blocks.12.ffn.net.0.proj", LoraPart::kUp,
             LoraStyle::kMusubi);
  expect_key("lora_unet_time_projection_1.lora_up.weight", "condition_embedder.time_proj",
             LoraPart::kUp, LoraStyle::kMusubi);
}

TEST(LoraKeys, AWeightOfAModelIsNone) {
  EXPECT_FALSE(read_lora_key("blocks.0.attn1.to_q.weight"));
  EXPECT_FALSE(read_lora_key(""));
}

TEST(LoraChoice, TheScaleFollowsTheLastColon) {
  EXPECT_EQ(read_lora_choice("a.safetensors").scale, 1.0);
  EXPECT_EQ(read_lora_choice("b:c.safetensors:0.5").file, "b:c.safetensors");
  EXPECT_EQ(read_lora_choice("b:c.safetensors:-0.5").scale, -0.5);
  EXPECT_THROW(read_lora_choice("a.safetensors:much"), InvalidInput);
}

}  // namespace
}  // namespace fastwan::layout
