#include "data/synthesize/synthesize.h"

#include <gtest/gtest.h>

#include "base/check.h"

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

// Levels whose timestep as the model is told it is not their sigma: the sigma counts.
std::vector<diffusion::NoiseLevel> levels_of(const std::vector<double>& sigmas) {
  std::vector<diffusion::NoiseLevel> levels;
  for (const double sigma : sigmas) {
    levels.push_back({.timestep = 0, .sigma = sigma});
  }
  return levels;
}

TEST(NearestStates, AreOfTheSamplersOwnScheduleByTheirSigmas) {
  const auto levels = levels_of({0.9995, 0.8, 0.75, 0.5, 0.125});
  const std::vector<KeptState> kept = nearest_states(levels, {1000, 774, 1});
  ASSERT_EQ(kept.size(), 3u);
  EXPECT_EQ(kept[0].step, 0);
  EXPECT_EQ(kept[0].timestep, 999.5);
  EXPECT_EQ(kept[1].step, 2);  // 774 is below the middle of 800 and 750
  EXPECT_EQ(kept[2].step, 4);
  EXPECT_EQ(kept[2].timestep, 125);
  EXPECT_EQ(nearest_states(levels, {776})[0].step, 1);
  EXPECT_EQ(nearest_states(levels, {625})[0].step, 2) << "of equals the noisier";
}

TEST(NearestStates, TimestepsThatDoNotFallOrShareAStateAreRefused) {
  const auto levels = levels_of({1.0, 0.8, 0.5});
  for (const std::vector<int64_t>& asked : std::vector<std::vector<int64_t>>{
           {}, {1001}, {500, 0}, {500, 500}, {500, 800}, {800, 790}}) {
    EXPECT_THROW(nearest_states(levels, asked), InvalidInput);
  }
  EXPECT_EQ(nearest_states(levels, {1000, 800, 500}).size(), 3u);
}

}  // namespace
}  // namespace fastwan::data
