#include "data/synthesize/synthesize.h"

#include <gtest/gtest.h>

namespace fastwan::data {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

TEST(SynthBatch, FillsTheDeviceAndNoMore) {
  const auto of = [](int64_t tokens) {
    return synth_batch({.tokens = tokens, .clip_bytes = 1, .spare_bytes = 100 * kGiB});
  };
  EXPECT_EQ(of(1), 64);
  EXPECT_EQ(of(512), 64);  // 64 of them are 32,768 tokens
  EXPECT_EQ(of(1024), 32);
  EXPECT_EQ(of(1025), 32);  // one more than 31.97
  EXPECT_EQ(of(32767), 2);
  EXPECT_EQ(of(32768), 1);  // one clip fills it
  EXPECT_EQ(of(75600), 1);
}

TEST(SynthBatch, TakesHalfOfTheSpareMemoryAndAtLeastOneClip) {
  const auto of = [](int64_t spare) {
    return synth_batch({.tokens = 512, .clip_bytes = kGiB, .spare_bytes = spare});
  };
  EXPECT_EQ(of(20 * kGiB), 10);
  EXPECT_EQ(of(20 * kGiB - 1), 9);
  EXPECT_EQ(of(kGiB), 1);
  EXPECT_EQ(of(-kGiB), 1);  // the weights do not fit: what waits elsewhere is the plan's to say
}

}  // namespace
}  // namespace fastwan::data
