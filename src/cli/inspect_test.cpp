#include "cli/inspect.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/test_model.h"
#include "io/image.h"

namespace fastwan::cli {
namespace {

bool has(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

Json component(const Json& document, const char* name) {
  for (const Json& part : document.at("components")) {
    if (part.at("name") == name) {
      return part;
    }
  }
  throw std::runtime_error(name);
}

TEST(DescribeModel, AWholeModelHasNoComplaints) {
  TestModel model;
  const Json document = describe_model(model.where());
  EXPECT_EQ(document.at("class"), "WanDMDPipeline");
  EXPECT_EQ(document.at("preset"), "fastwan.json");
  EXPECT_EQ(document.at("is_gated"), true);
  EXPECT_EQ(document.at("latents").at("size_multiple"), 16);
  EXPECT_EQ(document.at("components").size(), 3u);
  for (const Json& part : document.at("components")) {
    for (const char* kind : {"missing", "unexpected", "misshapen"}) {
      EXPECT_EQ(part.at(kind).at("count"), 0) << part.dump();
    }
    EXPECT_EQ(part.at("bytes").get<int64_t>(), 2 * part.at("parameters").get<int64_t>());
  }
  EXPECT_EQ(component(document, "transformer").at("geometry").at("width"), 24);
  const std::string text = text_of(document);
  EXPECT_TRUE(has(text, "sparse: the weights have gates")) << text;
  EXPECT_TRUE(has(text, "4k+1 frames")) << text;
}

TEST(DescribeModel, MissingUnexpectedAndMisshapenTensorsAreListedTenAtMost) {
  TestModel model;
  std::vector<layout::TensorSpec> specs = layout::tensors_of(layout::Umt5Config{
      .d_model = 16, .d_kv = 8, .num_heads = 2, .d_ff = 32, .num_layers = 1, .vocab_size = 64});
  specs[0].shape = {64, 17};
  specs.erase(specs.begin() + 1);
  for (int i = 0; i < 12; ++i) {
    specs.push_back({str("extra.", i), {1}});
  }
  model.write_weights("text_encoder", specs);
  const Json found = component(describe_model(model.where()), "text_encoder");
  EXPECT_EQ(found.at("missing").at("first"),
            Json({"encoder.block.0.layer.0.SelfAttention.q.weight [16, 16]"}));
  EXPECT_EQ(found.at("misshapen").at("first"), Json({"shared.weight [64, 17], wanted [64, 16]"}));
  EXPECT_EQ(found.at("unexpected").at("count"), 12);
  EXPECT_EQ(found.at("unexpected").at("first").size(), 10u);
}

TEST(DescribeModel, TheTiedEmbeddingMayHaveItsOtherName) {
  TestModel model;
  std::vector<layout::TensorSpec> specs = layout::tensors_of(layout::Umt5Config{
      .d_model = 16, .d_kv = 8, .num_heads = 2, .d_ff = 32, .num_layers = 1, .vocab_size = 64});
  specs[0].name = "encoder.embed_tokens.weight";
  model.write_weights("text_encoder", specs);
  const Json found = component(describe_model(model.where()), "text_encoder");
  EXPECT_EQ(found.at("missing").at("count"), 0);
  EXPECT_EQ(found.at("unexpected").at("count"), 0);
}

TEST(DescribeWeights, AComponentFolderIsComparedWithItsConfig) {
  TestModel model;
  const Json document = describe_weights(model.where() / "vae");
  EXPECT_EQ(document.at("kind"), "component");
  EXPECT_EQ(document.at("components")[0].at("class"), "AutoencoderKLWan");
}

TEST(DescribeWeights, AnOriginalWanFileIsRecognised) {
  TestModel model;
  model.write_weights("x", {{"model.diffusion_model.patch_embedding.weight", {24, 4, 1, 2, 2}},
                            {"model.diffusion_model.blocks.0.ffn.0.weight", {32, 24}},
                            {"model.diffusion_model.blocks.1.ffn.0.weight", {32, 24}}});
  const Json document = describe_weights(model.where() / "x" / "model.safetensors");
  const Json& geometry = document.at("geometry");
  EXPECT_EQ(geometry.at("layers"), 2);
  EXPECT_EQ(geometry.at("width"), 24);
  EXPECT_EQ(geometry.at("ffn_dim"), 32);
  EXPECT_EQ(geometry.at("names"), "original Wan");
  EXPECT_EQ(geometry.at("is_gated"), false);
}

TEST(DescribeWeights, ALoraTellsItsKeysRanksAndStrangers) {
  TestModel model;
  const std::string base = "diffusion_model.blocks.0.self_attn.";
  model.write_weights("x", {{base + "q.lora_down.weight", {8, 24}},
                            {base + "q.lora_up.weight", {24, 8}},
                            {base + "q.alpha", {}},
                            {base + "k.lora_down.weight", {4, 24}},
                            {base + "k.lora_up.weight", {24, 4}},
                            {base + "k.diff_b", {24}},
                            {"blocks.0.to_gate_compress.bias", {24}},
                            {"stranger", {1}}});
  const Json document = describe_weights(model.where() / "x" / "model.safetensors");
  EXPECT_EQ(document.at("kind"), "lora");
  EXPECT_EQ(document.at("styles"), Json({"original Wan"}));
  EXPECT_EQ(document.at("ranks"), Json({4, 8}));
  EXPECT_EQ(document.at("modules"), 2);
  EXPECT_EQ(document.at("differences"), 1);
  EXPECT_EQ(document.at("gates"), 1);
  EXPECT_EQ(document.at("unknown_keys").at("first"), Json({"stranger"}));
}

TEST(DescribeMedia, APictureTellsHowItWasMade) {
  TempFolder folder;
  const io::Image image{.width = 2, .height = 1, .rgb = {0, 0, 0, 255, 255, 255}};
  const Json metadata = {
      {"prompt", "a \x1b[31m kite"}, {"seed", 7}, {"settings", {{"--width", "64"}}}};
  io::write_png(folder.where() / "a.png", image, metadata.dump());
  const Json document = describe_media(folder.where() / "a.png");
  EXPECT_EQ(document.at("metadata"), metadata);
  EXPECT_EQ(document.at("command"), "fastwan generate --prompt 'a \x1b[31m kite' --width 64");
  EXPECT_FALSE(has(text_of(document), "\x1b")) << "a file must not steer the terminal";

  io::write_png(folder.where() / "b.png", image);
  const Json silent = describe_media(folder.where() / "b.png");
  EXPECT_TRUE(silent.at("metadata").is_null());
  EXPECT_TRUE(has(text_of(silent), "does not say"));
}

}  // namespace
}  // namespace fastwan::cli
