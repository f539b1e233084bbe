#include "data/shapes_source.h"

#include <set>

#include <gtest/gtest.h>

#include "base/check.h"
#include "data/latent_pool.h"
#include "support/compare.h"
#include "support/random_model.h"

namespace fastwan::data {
namespace {

constexpr shapes::Format kSmall{.frames = 5, .height = 64, .width = 64};

TEST(ShapesSource, GivesBytesThatBecomePixelsInTheRangeOfTheVae) {
  const ShapesSource source(kSmall, 3, {10, 4});
  EXPECT_EQ(source.size(), 4);
  const Example example = source.get(2);
  EXPECT_EQ(example.id, "shapes-3-12");
  EXPECT_EQ(example.caption, shapes::draw_scene(kSmall, 3, 12).caption);
  EXPECT_EQ(example.latents.sizes(), (std::vector<int64_t>{3, 5, 64, 64}));
  EXPECT_EQ(example.text.size(0), 0);
  EXPECT_EQ(example.latents.scalar_type(), at::kByte);
  const at::Tensor pixels = as_pixels(example.latents);
  const shapes::Clip clip = shapes::render(kSmall, 3, 12);
  for (const int64_t frame : {int64_t{0}, int64_t{4}}) {
    for (const int64_t channel : {int64_t{0}, int64_t{2}}) {
      const auto byte =
          clip.rgb[static_cast<std::size_t>(((frame * 64 + 30) * 64 + 17) * 3 + channel)];
      EXPECT_NEAR(pixels[channel][frame][30][17].item<double>(), byte / 127.5 - 1, 1e-6);
    }
  }
}

TEST(ShapesSource, ItsDigestTellsFormatSeedAndRange) {
  const std::string digest = ShapesSource(kSmall, 3, {10, 4}).digest();
  EXPECT_EQ(digest, ShapesSource(kSmall, 3, {10, 4}).digest());
  EXPECT_NE(digest, ShapesSource(kSmall, 4, {10, 4}).digest());
  EXPECT_NE(digest, ShapesSource(kSmall, 3, {11, 4}).digest());
  EXPECT_NE(digest, ShapesSource(kSmall, 3, {10, 5}).digest());
  EXPECT_NE(digest, ShapesSource({9, 64, 64}, 3, {10, 4}).digest());
}

TEST(ShapesSource, AWindowIsFramesOfTheClipAtAPlaceOfItsIndexAlone) {
  const ShapesSource whole({9, 64, 64}, 3, {10, 12}), part({9, 64, 64}, 3, {10, 12}, {.frames = 5}),
      shifted({9, 64, 64}, 3, {11, 11}, {.frames = 5});
  std::set<int64_t> places;
  for (int64_t i = 1; i < 12; ++i) {
    const at::Tensor all = whole.get(i).latents, window = part.get(i).latents;
    ASSERT_EQ(window.sizes(), (std::vector<int64_t>{3, 5, 64, 64}));
    EXPECT_TRUE(testing::is_equal(shifted.get(i - 1).latents, window));
    for (int64_t first = 0; first < 5; ++first) {
      if (testing::is_equal(all.narrow(1, first, 5), window)) {
        places.insert(first);
      }
    }
  }
  EXPECT_GE(places.size(), 3U);  // 11 windows at five places
  EXPECT_NE(whole.digest(), part.digest());
  EXPECT_THROW(ShapesSource(kSmall, 3, {10, 4}, {.frames = 6}), InvalidInput);
}

TEST(ShapesSource, CaptionsComeWithoutPixels) {
  const Example example = ShapesSource(kSmall, 3, {10, 4}, {.frames = 0}).get(2);
  EXPECT_EQ(example.caption, shapes::draw_scene(kSmall, 3, 12).caption);
  EXPECT_FALSE(example.latents.defined());
}

TEST(ShapesSource, RefusesRangesThatLeaveTheIndices) {
  EXPECT_NO_THROW(ShapesSource(kSmall, 3, {shapes::kNumIndices - 1, 1}));
  EXPECT_THROW(ShapesSource(kSmall, 3, {shapes::kNumIndices - 1, 2}), InvalidInput);
  EXPECT_THROW(ShapesSource(kSmall, 3, {-1, 2}), InvalidInput);
  EXPECT_THROW(ShapesSource(kSmall, 3, {0, 0}), InvalidInput);
}

struct Encoders {
  std::shared_ptr<models::WanVae> vae = models::load_wan_vae(testing::random_model() / "vae");
  std::shared_ptr<models::Umt5> text_encoder =
      models::load_umt5(testing::random_model() / "text_encoder", {});
  std::unique_ptr<text::Tokenizer> tokenizer =
      text::open_tokenizer(testing::random_model() / "tokenizer");
  PoolEncoders refs() const { return {*vae, *text_encoder, *tokenizer}; }
};

TEST(LatentPool, HoldsEachClipsPosteriorMeanAndEmbedding) {
  const Encoders encoders;
  const PoolOptions options{.format = kSmall, .seed = 3, .range = {100, 5}, .vae_batch = 2};
  const auto pool = encode_pool(options, encoders.refs(), {});
  ASSERT_EQ(pool->size(), 5);
  EXPECT_EQ(pool->latents().size(0), 5);
  const ShapesSource source(kSmall, 3, {100, 5});
  for (int64_t i = 0; i < 5; ++i) {
    const Example encoded = pool->get(i), drawn = source.get(i);
    EXPECT_EQ(encoded.caption, drawn.caption);
    EXPECT_EQ(encoded.id, drawn.id);
    const at::Tensor alone =
        encoders.vae->encode(as_pixels(drawn.latents).unsqueeze(0)).mean.squeeze(0);
    EXPECT_TRUE(testing::is_close(encoded.latents, alone, testing::kModelFp32)) << i;
    const at::Tensor text =
        encode_captions({drawn.caption}, *encoders.text_encoder, *encoders.tokenizer, at::kCPU)[0];
    EXPECT_EQ(text.size(0), static_cast<int64_t>(encoders.tokenizer->encode(drawn.caption).size()));
    EXPECT_TRUE(testing::is_close(encoded.text, text, testing::kModelFp32)) << i;
  }
}

TEST(LatentPool, DigestsAreOfTheLatentsAndRepeat) {
  const Encoders encoders;
  PoolOptions options{.format = kSmall, .seed = 3, .range = {0, 3}, .vae_batch = 2};
  const auto one = encode_pool(options, encoders.refs(), {});
  const auto again = encode_pool(options, encoders.refs(), {});
  EXPECT_EQ(one->digest(), again->digest());
  EXPECT_EQ(one->first_digest(), again->first_digest());
  options.seed = 4;
  const auto other = encode_pool(options, encoders.refs(), {});
  EXPECT_NE(one->digest(), other->digest());
  EXPECT_NE(one->first_digest(), other->first_digest());
}

TEST(LatentPool, StopsBetweenBatches) {
  const Encoders encoders;
  std::stop_source stop;
  int64_t reported = 0;
  const Watch watch{stop.get_token(), [&](const Progress& progress) {
                      reported = progress.step;
                      stop.request_stop();
                    }};
  const PoolOptions options{.format = kSmall, .range = {0, 6}, .vae_batch = 2};
  EXPECT_THROW(encode_pool(options, encoders.refs(), watch), Stopped);
  EXPECT_EQ(reported, 2);
}

}  // namespace
}  // namespace fastwan::data
