#include "eval/video_statistics.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "eval/temporal.h"
#include "support/golden.h"

namespace fastwan::eval {
namespace {

constexpr int64_t F = 11, P = 5, Q = 6;

at::Tensor video() {  // [F, 3, P, Q], a part of its values at both ends
  return testing::golden_tensor("video_statistics", "x", {F, 3, P, Q}, 0.5, 0.4).clamp(0, 1);
}

std::map<std::string, double> plain_loops(const at::Tensor& frames) {
  const at::Tensor dense = frames.to(at::kDouble).contiguous();
  const auto at = [&](int64_t f, int64_t c, int64_t p) {
    return dense.const_data_ptr<double>()[(f * 3 + c) * P * Q + p];
  };
  std::map<std::string, double> sums;
  for (int64_t f = 0; f < F; ++f) {
    double mean = 0, squares = 0;
    for (int64_t p = 0; p < P * Q; ++p) {
      const double r = at(f, 0, p), g = at(f, 1, p), b = at(f, 2, p);
      const double y = .2126 * r + .7152 * g + .0722 * b;
      mean += y / (P * Q);
      squares += y * y / (P * Q);
      sums["saturation"] +=
          (std::max(r, std::max(g, b)) - std::min(r, std::min(g, b))) / (F * P * Q);
      for (int64_t c = 0; c < 3; ++c) {
        const double x = at(f, c, p);
        sums["clipped"] += (x <= 1.0 / 255 || x >= 254.0 / 255) ? 1.0 / (F * 3 * P * Q) : 0;
        if (f >= 1) {
          sums["frame_difference"] += std::abs(x - at(f - 1, c, p)) / ((F - 1) * 3 * P * Q);
        }
        if (f >= 2) {
          sums["flicker"] +=
              std::abs(x - 2 * at(f - 1, c, p) + at(f - 2, c, p)) / ((F - 2) * 3 * P * Q);
        }
      }
    }
    sums["contrast"] += std::sqrt(squares - mean * mean) / F;
  }
  return sums;
}

std::map<std::string, double> in_chunks(const at::Tensor& frames, int64_t first, int64_t later) {
  VideoStatistics statistics;
  for (int64_t begin = 0; begin < frames.size(0);) {
    const int64_t end = std::min(frames.size(0), begin + (begin == 0 ? first : later));
    statistics.add(frames.slice(0, begin, end));
    begin = end;
  }
  return statistics.values();
}

void expect_near(const std::map<std::string, double>& got,
                 const std::map<std::string, double>& wanted,
                 double allowed) {
  ASSERT_EQ(got.size(), wanted.size());
  for (const auto& [name, value] : wanted) {
    ASSERT_TRUE(got.contains(name)) << name;
    EXPECT_NEAR(got.at(name), value, allowed) << name;
  }
}

TEST(VideoStatistics, AreThePlainLoops) {
  const auto wanted = plain_loops(video());
  ASSERT_EQ(wanted.size(), 5U);
  EXPECT_GT(wanted.at("clipped"), 0.05) << "the test sees both ends";
  expect_near(in_chunks(video(), F, F), wanted, 1e-6);
}

TEST(VideoStatistics, AreThoseOfTheWholeHoweverItsFramesCome) {
  const auto whole = in_chunks(video(), F, F);
  expect_near(in_chunks(video(), 1, 1), whole, 1e-12);
  expect_near(in_chunks(video(), 1, 4), whole, 1e-12);  // as a VAE gives them
  expect_near(in_chunks(video(), 3, 2), whole, 1e-12);
  EXPECT_NEAR(whole.at("flicker"), flicker(video()), 1e-6) << "one meaning of the word";
}

TEST(VideoStatistics, TellAStillFromABlinkAndAFlatFrameFromAPicture) {
  const auto flat = in_chunks(at::full({4, 3, P, Q}, 0.5), 1, 1);
  for (const auto& [name, value] : flat) {
    EXPECT_NEAR(value, 0, 1e-7) << name;
  }
  at::Tensor blink = at::zeros({4, 3, P, Q});
  blink[1].fill_(1);
  blink[3].fill_(1);
  const auto burnt = in_chunks(blink, 4, 4);
  EXPECT_EQ(burnt.at("clipped"), 1);
  EXPECT_EQ(burnt.at("contrast"), 0);
  EXPECT_EQ(burnt.at("frame_difference"), 1);
  EXPECT_EQ(burnt.at("flicker"), 2);
  at::Tensor halves = at::full({1, 3, P, Q}, 0.25);  // red of one half of the frame
  halves.narrow(3, 0, Q / 2).select(1, 0).fill_(0.75);
  const auto red = in_chunks(halves, 1, 1);
  EXPECT_NEAR(red.at("saturation"), 0.25, 1e-7);
  EXPECT_NEAR(red.at("contrast"), 0.2126 * 0.25, 1e-7);
}

TEST(VideoStatistics, SayWhatSoManyFramesAllow) {
  EXPECT_TRUE(VideoStatistics().values().empty());
  EXPECT_EQ(in_chunks(video().narrow(0, 0, 1), 1, 1).size(), 3U);
  EXPECT_EQ(in_chunks(video().narrow(0, 0, 2), 1, 1).size(), 4U);
  EXPECT_EQ(in_chunks(video().narrow(0, 0, 3), 1, 1).size(), 5U);
}

TEST(VideoStatistics, RefuseFramesOfAnotherSize) {
  VideoStatistics statistics;
  statistics.add(video());
  EXPECT_THROW(statistics.add(at::zeros({1, 3, P, Q + 1})), InvalidInput);
  EXPECT_THROW(VideoStatistics().add(at::zeros({3, P, Q})), InvalidInput);
}

}  // namespace
}  // namespace fastwan::eval
