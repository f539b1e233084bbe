// The layers alone, against diffusers' classes (tests/golden/vae/vae_layers).
#include "models/wan_vae/layers.h"

#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "models/wan_vae/blocks.h"
#include "models/wan_vae/pixels.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::models::wan_vae {
namespace {

const std::string kCase = "vae_layers";

at::Tensor innermost(const at::Tensor& x) {
  return x.movedim(1, -1).contiguous();
}

::testing::AssertionResult agrees(const char* name, const at::Tensor& got) {
  const at::Tensor want = testing::Golden("vae", kCase).tensor(name);  // [B, C, T, H, W]
  const double range = (want.max() - want.min()).item<double>();
  return testing::is_close(got.movedim(-1, 1), want,
                           {.of_range = 1e-6 / range, .relative_l2 = 1e-6});
}

at::Tensor input(const std::string& name, at::IntArrayRef shape) {
  return innermost(testing::golden_tensor(kCase, name, shape));
}

TEST(RmsNorm, AgreesWithDiffusersAndLeavesAZeroVectorZero) {
  torch::nn::Module root;
  const RmsNorm norm = RmsNorm::make({root, "decoder.norm", at::kFloat}, 6, 4);
  testing::fill_golden_weights(root, kCase);
  at::Tensor x = testing::golden_tensor(kCase, "norm.x", {1, 6, 2, 3, 4});
  x.select(4, 0).select(3, 0).select(2, 0).zero_();
  const at::Tensor got = norm(innermost(x));
  EXPECT_TRUE(agrees("norm", got));
  EXPECT_EQ(got.select(1, 0).select(1, 0).select(1, 0).abs().max().item<float>(), 0.0F);
}

TEST(AvgDown, AgreesWithDiffusersForOneFrameAndForFour) {
  for (const int64_t frames : {1, 4}) {
    const std::string name = str("avg_down", frames);
    const at::Tensor x = input(name + ".x", {1, 4, frames, 4, 6});
    EXPECT_TRUE(agrees((name + ".both").c_str(), avg_down(x, 8, {.t = 2, .s = 2})));
    EXPECT_TRUE(agrees((name + ".space").c_str(), avg_down(x, 4, {.t = 1, .s = 2})));
    EXPECT_TRUE(agrees((name + ".none").c_str(), avg_down(x, 4, {.t = 1, .s = 1})));
  }
}

TEST(DupUp, AgreesWithDiffusersWhereChannelsStayAndWhereTheyHalve) {
  const at::Tensor x = input("dup_up.x", {1, 8, 2, 2, 3});
  EXPECT_TRUE(agrees("dup_up.both", dup_up(x, 8, {.t = 2, .s = 2})));
  EXPECT_TRUE(agrees("dup_up.space", dup_up(x, 4, {.t = 1, .s = 2})));
}

TEST(Patchify, AgreesWithDiffusersAndUnpatchifyInvertsIt) {
  const at::Tensor x = testing::golden_tensor(kCase, "patch.x", {1, 3, 2, 4, 6});
  EXPECT_TRUE(agrees("patch", patchify(x, 2)));
  EXPECT_TRUE(testing::is_equal(unpatchify(patchify(x, 2), 2), x));
  EXPECT_TRUE(testing::is_equal(unpatchify(patchify(x, 1), 1), x));
}

template <class Layer>
at::Tensor by_chunk(const Layer& layer, const std::vector<at::Tensor>& chunks) {
  FeatureCache cache;
  std::vector<at::Tensor> out;
  for (const at::Tensor& chunk : chunks) {
    cache.next_chunk();
    out.push_back(layer(chunk, cache));
  }
  return at::cat(out, 1);
}

// One and two frames a chunk take different paths through the cache in the second chunk.
TEST(Upsample, ByChunksOfOneAndOfTwoFramesAgreesWithDiffusers) {
  torch::nn::Module root;
  const Upsample up = Upsample::make({root, "decoder.up", at::kFloat}, {.in = 4, .out = 2}, true);
  testing::fill_golden_weights(root, kCase);
  for (const int64_t size : {1, 2}) {
    std::vector<at::Tensor> chunks;
    for (int64_t i = 0; i < 4; ++i) {
      chunks.push_back(input(str("up.", size, ".", i), {1, 4, i == 0 ? 1 : size, 2, 3}));
    }
    EXPECT_TRUE(agrees(str("up.", size).c_str(), by_chunk(up, chunks)));
  }
}

TEST(Downsample, ByChunksOfOneAndOfFourFramesAgreesWithDiffusers) {
  torch::nn::Module root;
  const Downsample down = Downsample::make({root, "decoder.down", at::kFloat}, 4, true);
  testing::fill_golden_weights(root, kCase);
  std::vector<at::Tensor> chunks;
  for (int64_t i = 0; i < 3; ++i) {
    chunks.push_back(input(str("down.", i), {1, 4, i == 0 ? 1 : 4, 4, 6}));
  }
  EXPECT_TRUE(agrees("down", by_chunk(down, chunks)));
}

}  // namespace
}  // namespace fastwan::models::wan_vae
