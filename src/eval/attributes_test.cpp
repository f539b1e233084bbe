#include "eval/attributes.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "eval/statistics.h"

namespace fastwan::eval {
namespace {

using namespace data::shapes;

TEST(Wilson, IsTheScoreInterval) {
  // 8 of 10 at z = 1.96: (.490, .943), the textbook's figures.
  const Estimate share = wilson(8, 10, 1.96);
  EXPECT_DOUBLE_EQ(share.value, 0.8);
  EXPECT_NEAR(share.low, 0.4902, 1e-4);
  EXPECT_NEAR(share.high, 0.9433, 1e-4);
  // Its ends solve (p - share)^2 = z^2 p (1 - p) / n.
  for (const double p : {share.low, share.high}) {
    EXPECT_NEAR(std::pow(p - 0.8, 2), 1.96 * 1.96 * p * (1 - p) / 10, 1e-12);
  }
  for (int64_t n = 1; n < 100; ++n) {  // whatever the sums round to, as for 12 and 14
    EXPECT_EQ(wilson(0, n).low, 0) << n;
    EXPECT_EQ(wilson(n, n).high, 1) << n;
  }
  EXPECT_GT(wilson(0, 20).high, 0.1);
  EXPECT_EQ(wilson(0, 0).high, 1);
  // Half width at .9 of 2,048.
  EXPECT_NEAR((wilson(1843, 2048).high - wilson(1843, 2048).low) / 2, 0.013, 5e-4);
}

TEST(ChiSquared, TailIsItsClosedFormForEvenFreedom) {
  // Q(k / 2, x / 2) = exp(-x / 2) sum_{j < k / 2} (x / 2)^j / j!
  EXPECT_NEAR(chi_squared_tail(6.0, 2), std::exp(-3.0), 1e-12);
  EXPECT_NEAR(chi_squared_tail(6.0, 4), std::exp(-3.0) * (1 + 3), 1e-12);
  EXPECT_NEAR(chi_squared_tail(6.0, 6), std::exp(-3.0) * (1 + 3 + 4.5), 1e-12);
  EXPECT_NEAR(chi_squared_tail(3.0, 1), std::erfc(std::sqrt(1.5)), 1e-12);
  EXPECT_EQ(chi_squared_tail(0, 3), 1);
}

TEST(ChiSquared, OfCountsIsPearsons) {
  const std::vector<int64_t> counts = {10, 20, 30};
  const ChiSquared test = test_uniform(counts);
  EXPECT_DOUBLE_EQ(test.statistic, 10);  // (100 + 0 + 100) / 20
  EXPECT_EQ(test.freedom, 2);
  EXPECT_NEAR(test.p, std::exp(-5.0), 1e-12);
  EXPECT_EQ(test_uniform(std::vector<int64_t>{0, 0}).p, 1);
}

TEST(Histogram, KeepsEndsAndEdges) {
  const std::vector<double> values = {-0.1, 0, 0.24, 0.25, 0.5, 0.99, 1, 1.3};
  EXPECT_EQ(histogram(values, 4), (std::vector<int64_t>{3, 1, 1, 3}));
}

TEST(MeanAndStdOf, IsTheSampleStandardDeviation) {
  const std::vector<double> values = {1, 2, 4};
  EXPECT_NEAR(mean_and_std(values).mean, 7.0 / 3, 1e-12);
  EXPECT_NEAR(mean_and_std(values).std, std::sqrt(7.0 / 3), 1e-12);
  EXPECT_EQ(mean_and_std(std::vector<double>{3}).std, 0);
}

TEST(Attributes, AreCountedEachAndTogether) {
  AttributeScore score;
  Detection found{.is_found = true};
  const Attributes wanted;
  score.add(wanted, found);
  found.attributes.shape = Shape::kPlus;
  score.add(wanted, found);
  found.attributes.size = Size::kLarge;
  score.add(wanted, found);
  EXPECT_EQ(score.count(), 3);
  EXPECT_DOUBLE_EQ(score.of(0).value, 1);
  EXPECT_DOUBLE_EQ(score.of(1).value, 1.0 / 3);
  EXPECT_DOUBLE_EQ(score.of(3).value, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.all_correct().value, 1.0 / 3);
}

// Samples of a prompt whose start is the law's, pulled towards the middle of its rectangle by
// `keep` (1: the law itself).
std::vector<NuisanceSample> samples_of(const Attributes& attributes,
                                       int64_t count,
                                       double keep,
                                       int64_t first) {
  std::vector<NuisanceSample> samples;
  for (int64_t i = 0; i < count; ++i) {
    const Scene scene = draw_scene(kDefaultFormat, 7, first + i, attributes);
    const StartRectangle r = start_rectangle(kDefaultFormat, attributes);
    const Point middle{(r.low.x + r.high.x) / 2, (r.low.y + r.high.y) / 2};
    Detection found{.is_found = true, .attributes = attributes};
    found.start = {middle.x + keep * (scene.start.x - middle.x),
                   middle.y + keep * (scene.start.y - middle.y)};
    const double period = symmetry_period(attributes.shape);
    found.rotation = scene.rotation - period * std::floor(scene.rotation / period);
    samples.push_back({attributes, found});
  }
  return samples;
}

TEST(NuisanceLaw, IsAcceptedForTheLawAndRefusedForACollapsedModel) {
  const Attributes square{.shape = Shape::kSquare, .size = Size::kLarge, .speed = Speed::kFast};
  const auto real = samples_of(square, 1500, 1, 0);
  EXPECT_GT(test_starts(kDefaultFormat, real).p, 1e-3);
  EXPECT_GT(test_rotations(real).p, 1e-3);
  EXPECT_EQ(test_starts(kDefaultFormat, real).freedom, 15);
  EXPECT_EQ(test_rotations(real).freedom, 11);

  auto collapsed = samples_of(square, 1500, 0.7, 0);
  EXPECT_LT(test_starts(kDefaultFormat, collapsed).p, 1e-9);
  for (NuisanceSample& sample : collapsed) {
    sample.found.rotation = 0.5 * sample.found.rotation;
  }
  EXPECT_LT(test_rotations(collapsed).p, 1e-9);
}

TEST(NuisanceLaw, HoldsForTheAnglesOfStripesAndGradients) {
  std::vector<NuisanceSample> law, narrow;
  for (int64_t i = 0; i < 1500; ++i) {
    const Background background = attributes_of(i).background;  // each of the four in turn
    const Scene scene = draw_scene(kDefaultFormat, 7, i, {.background = background});
    Detection found{.attributes = {.background = background}};
    found.background_angle = scene.background_angle;
    law.push_back({{}, found});
    found.background_angle *= 0.8;
    narrow.push_back({{}, found});
  }
  EXPECT_GT(test_angles(law).p, 1e-3);
  EXPECT_EQ(test_angles(law).freedom, 11);
  EXPECT_LT(test_angles(narrow).p, 1e-9);
  // A twelfth of a period in each bin, on its lower edge; rounding moves none into the next.
  std::vector<NuisanceSample> edges;
  for (const Background background : {Background::kStripes, Background::kGradient}) {
    double angle = 0;
    for (int64_t i = 0; i < 12; ++i, angle += angle_period(background) / 12) {
      Detection found{.attributes = {.background = background}};
      found.background_angle = angle;
      edges.push_back({{}, found});
    }
  }
  EXPECT_EQ(test_angles(edges).statistic, 0);
  // Backgrounds without an angle count for nothing.
  for (NuisanceSample& sample : edges) {
    sample.found.attributes.background = Background::kChecker;
  }
  EXPECT_EQ(test_angles(edges).p, 1);
}

TEST(NuisanceLaw, SpreadIsOneForTheLawAndTheShareThatIsKept) {
  const auto prompts = [](double keep) {
    std::vector<std::vector<NuisanceSample>> out;
    for (int64_t i = 0; i < 32; ++i) {
      out.push_back(samples_of(attributes_of(seen_codes()[static_cast<std::size_t>(100 * i)]), 64,
                               keep, 1000 * i));
    }
    return out;
  };
  // 32 x 64 samples: the mean of standard deviations errs by about 1 %.
  EXPECT_NEAR(position_spread(kDefaultFormat, prompts(1)), 1, 0.03);
  EXPECT_NEAR(position_spread(kDefaultFormat, prompts(0.5)), 0.5, 0.015);
  EXPECT_EQ(position_spread(kDefaultFormat, {}), 0);
}

TEST(NuisanceLaw, LeavesOutWhatWasNotFoundAndCirclesRotation) {
  auto samples = samples_of({}, 10, 1, 0);  // circles
  EXPECT_EQ(test_rotations(samples).p, 1);
  samples[0].found.is_found = false;
  EXPECT_EQ(normalised_starts(kDefaultFormat, samples).size(), 9u);
}

}  // namespace
}  // namespace fastwan::eval
