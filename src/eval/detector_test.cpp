#include "eval/detector.h"

#include <cmath>
#include <functional>
#include <numbers>

#include <ATen/Parallel.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "eval/attributes.h"
#include "eval/background.h"
#include "support/golden.h"

namespace fastwan::eval {
namespace {

using namespace data::shapes;

constexpr uint64_t kSeed = 2026;

struct Judged {
  Scene scene;
  Detection found;
};

// Clips [first, first + count), perhaps changed before they are judged.
std::vector<Judged> judge(const Format& format,
                          int64_t first,
                          int64_t count,
                          const std::function<at::Tensor(const at::Tensor&)>& change = {}) {
  std::vector<Judged> out(static_cast<std::size_t>(count));
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Clip clip = render(format, kSeed, first + i);
      const at::Tensor frames = to_frames(clip);
      out[static_cast<std::size_t>(i)] = {clip.scene, detect(change ? change(frames) : frames)};
    }
  });
  return out;
}

AttributeScore score_of(const std::vector<Judged>& judged) {
  AttributeScore score;
  for (const Judged& one : judged) {
    score.add(one.scene.attributes, one.found);
  }
  return score;
}

void expect_each(const AttributeScore& score, double at_least) {
  for (std::size_t i = 0; i < kNumAttributes; ++i) {
    EXPECT_GE(score.of(i).value, at_least) << kAttributeNames[i];
  }
}

TEST(Detector, ReadsEveryAttributeOfRenderedClips) {  // the gate Q0
  const AttributeScore score = score_of(judge(kDefaultFormat, kEvaluation.first, 320));
  ASSERT_EQ(score.count(), 320);
  expect_each(score, 0.99);
}

TEST(Detector, ReadsEveryAttributeAtTheSmallFormat) {
  expect_each(score_of(judge(kTinyCiFormat, kEvaluation.first, 192)), 0.99);
}

TEST(Detector, ReadsHeldOutCombinationsToo) {
  expect_each(score_of(judge(kTinyCiFormat, kEvaluationHeldOut.first, 96)), 0.98);
}

TEST(Detector, MeasuresWhatTheSceneSays) {
  for (const Judged& one : judge(kDefaultFormat, kProbe.first, 24)) {
    const Attributes& a = one.scene.attributes;
    ASSERT_TRUE(one.found.is_found);
    EXPECT_EQ(one.found.found_share, 1);
    EXPECT_NEAR(one.found.start.x, one.scene.start.x, 0.15);
    EXPECT_NEAR(one.found.start.y, one.scene.start.y, 0.15);
    const double speed = speed_px_per_frame(kDefaultFormat, a.speed);
    EXPECT_NEAR(one.found.velocity.x, speed * direction_vector(a.direction).x, 0.02);
    EXPECT_NEAR(one.found.velocity.y, speed * direction_vector(a.direction).y, 0.02);
    EXPECT_LT(one.found.centroid_residual_px, 0.2);
    const double area = area_px(a.shape, circumradius_px(kDefaultFormat, a.size));
    EXPECT_NEAR(one.found.area_px, area, 0.05 * area);
    EXPECT_LT(one.found.area_variation, 0.05);
    EXPECT_NEAR(one.found.saturation, 0.85, 0.02);
    const double off = one.found.hue_degrees - one.scene.hue_degrees;
    EXPECT_NEAR(off - 360 * std::round(off / 360), 0, 1.5);
    EXPECT_GT(one.found.overlap, 0.9);
    EXPECT_LT(one.found.background_error, 0.05);  // a wrong model leaves .1
    EXPECT_EQ(one.found.flicker, 0);
    EXPECT_EQ(one.found.fragment_share, 0);
  }
}

TEST(Detector, MeasuresTheRotationWithinItsSymmetry) {
  int64_t measured = 0;
  for (const Judged& one : judge(kDefaultFormat, kProbe.first + 100, 40)) {
    if (one.scene.attributes.shape == Shape::kCircle ||
        one.found.attributes.shape == Shape::kCircle) {
      continue;
    }
    const double period = symmetry_period(one.scene.attributes.shape);
    const double off = (one.found.rotation - one.scene.rotation) / period;
    EXPECT_LT(std::abs(off - std::round(off)) * period, 0.1) << "radians";
    EXPECT_GE(one.found.rotation, 0);
    EXPECT_LT(one.found.rotation, period);
    ++measured;
  }
  EXPECT_GT(measured, 20);
}

// What a decoder does to a clip: soft edges, some noise.
at::Tensor degrade(const at::Tensor& frames) {
  const at::Tensor soft = at::avg_pool2d(frames, 3, 1, 1, /*ceil_mode=*/false,
                                         /*count_include_pad=*/false);
  return (soft + testing::golden_tensor("detector", "noise", soft.sizes(), 0, 0.02)).clamp(0, 1);
}

TEST(Detector, StandsBlurAndNoise) {
  expect_each(score_of(judge(kDefaultFormat, kEvaluation.first + 1000, 64, degrade)), 0.95);
}

TEST(Detector, FindsNothingWhereNothingIsColoured) {
  const Detection found = detect(at::full({9, 3, 64, 64}, 0.4));
  EXPECT_FALSE(found.is_found);
  EXPECT_EQ(found.found_share, 0);
  EXPECT_EQ(found.attributes.background, Background::kPlain);
  AttributeScore score;
  score.add({}, found);  // every default value agrees, and yet
  EXPECT_EQ(score.of(0).value, 0);
  EXPECT_EQ(score.of(5).value, 1);
  EXPECT_EQ(score.all_correct().value, 0);
}

TEST(Detector, ObjectThatIsThereForLessThanHalfTheClipDoesNotCount) {
  const at::Tensor frames = to_frames(render(kTinyCiFormat, kSeed, 1));
  const at::Tensor grey = frames.mean({1}, /*keepdim=*/true).expand_as(frames);
  at::Tensor mostly_grey = frames.clone();
  mostly_grey.slice(0, 14, 29).copy_(grey.slice(0, 14, 29));
  EXPECT_FALSE(detect(mostly_grey).is_found);  // 14 of 29
  at::Tensor half = frames.clone();
  half.slice(0, 15, 29).copy_(grey.slice(0, 15, 29));
  EXPECT_TRUE(detect(half).is_found);  // 15 of 29
}

TEST(Detector, SeesFragmentsShakingAndFlicker) {
  const at::Tensor frames = to_frames(render(kDefaultFormat, kSeed, 3));
  at::Tensor broken = frames.clone();
  broken.slice(2, 0, 4).slice(3, 0, 5).select(1, 0).fill_(1.0);  // 20 reddish pixels in a corner
  const Detection whole = detect(frames);
  const Detection fragments = detect(broken);
  EXPECT_EQ(whole.fragment_share, 0);
  EXPECT_GT(fragments.fragment_share, 0.02);

  at::Tensor shaking = frames.clone();
  for (int64_t frame = 1; frame < 29; frame += 2) {
    shaking[frame] = frames[frame].roll({2}, {2});
  }
  EXPECT_GT(detect(shaking).centroid_residual_px, 0.9);

  at::Tensor blinking = frames.clone();
  for (int64_t frame = 0; frame < 29; ++frame) {
    blinking[frame].add_(frame % 2 == 0 ? 0.01 : -0.01);
  }
  EXPECT_NEAR(detect(blinking).flicker, 0.04, 1e-4);
}

TEST(Detector, SeesWrongColoursInTheFirstFrame) {
  const at::Tensor frames = to_frames(render(kDefaultFormat, kSeed, 3));
  EXPECT_EQ(detect(frames).first_frame_hue_error, 0);
  // Other channels in turn, a hue 120 degrees off: in one half of the object, in all of it.
  const at::Tensor turned = frames.roll({1}, {1});
  const auto with_turned = [&](int64_t frame, int64_t from, int64_t to) {
    at::Tensor out = frames.clone();
    out[frame].slice(2, from, to).copy_(turned[frame].slice(2, from, to));
    return detect(out);
  };
  const auto middle = static_cast<int64_t>(std::lround(detect(frames).start.x));
  const double half = with_turned(0, 0, middle).first_frame_hue_error;
  EXPECT_NEAR(half, 0.5, 0.1);  // a column of pixels is a 20th of the object
  EXPECT_NEAR(half + with_turned(0, middle, 96).first_frame_hue_error, 1, 1e-9);
  EXPECT_EQ(with_turned(0, 0, 96).first_frame_hue_error, 1);
  EXPECT_EQ(with_turned(1, 0, 96).first_frame_hue_error, 0);  // the first frame alone is looked at

  at::Tensor late = frames.clone();
  late[0].copy_(frames[0].mean({0}, /*keepdim=*/true).expand_as(frames[0]));
  EXPECT_EQ(detect(late).first_frame_hue_error, 1);  // no object, no right hue
}

TEST(Detector, TellsAHueAThirdOfTheWayToTheNextFromOneTwoThirds) {
  Scene scene = draw_scene(kDefaultFormat, kSeed, 3);
  const at::Tensor frames = to_frames(render(kDefaultFormat, scene));
  const auto first_frame_off_by = [&](double degrees) {
    Scene off = scene;
    off.hue_degrees += degrees;
    at::Tensor out = frames.clone();
    out[0].copy_(to_frames(render(kDefaultFormat, off))[0]);
    return detect(out).first_frame_hue_error;
  };
  for (const double sign : {-1.0, 1.0}) {
    EXPECT_EQ(first_frame_off_by(sign * 15), 0);
    EXPECT_EQ(first_frame_off_by(sign * 30), 1);
  }
}

TEST(Detector, RefusesWhatIsNoClip) {
  EXPECT_THROW(detect(at::full({9, 1, 64, 64}, 0.4)), InvalidInput);
  EXPECT_THROW(detect(at::full({1, 3, 64, 64}, 0.4)), InvalidInput);
  EXPECT_THROW(detect(at::full({9, 3, 31, 64}, 0.4)), InvalidInput);
}

// As the grid of angles and the pixels leave it, the law of shapes.h.
TEST(Background, AnglesAreMeasuredAndKeepTheirLaw) {
  constexpr int64_t kEach = 600;
  for (const Background background : {Background::kStripes, Background::kGradient}) {
    std::vector<NuisanceSample> samples(kEach);
    at::parallel_for(0, kEach, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Scene scene = draw_scene(kTinyCiFormat, kSeed, i, {.background = background});
        StillPicture picture{.format = kTinyCiFormat, .levels = {}, .is_known = {}};
        for (int64_t y = 0; y < 64; ++y) {
          for (int64_t x = 0; x < 64; ++x) {
            picture.levels.push_back(
                background_level(kTinyCiFormat, scene,
                                 {static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5}));
            picture.is_known.push_back(1);
          }
        }
        const BackgroundFit fit = fit_background(picture);
        const double period = angle_period(background);
        EXPECT_LT(std::abs(std::remainder(fit.angle - scene.background_angle, period)), 0.02);
        EXPECT_GE(fit.angle, 0);
        EXPECT_LT(fit.angle, period);
        NuisanceSample& sample = samples[static_cast<std::size_t>(i)];
        sample.found.attributes.background = fit.background;
        sample.found.background_angle = fit.angle;
      }
    });
    EXPECT_GT(test_angles(samples).p, 1e-3);
  }
}

TEST(Background, IsFoundWhateverItsPhaseAngleAndBrightness) {
  int64_t right = 0, all = 0;
  for (const Background background :
       {Background::kPlain, Background::kStripes, Background::kChecker, Background::kGradient}) {
    for (int64_t i = 0; i < 20; ++i) {
      const Scene scene = draw_scene(kDefaultFormat, kSeed, i, {.background = background});
      StillPicture picture{.format = kDefaultFormat, .levels = {}, .is_known = {}};
      for (int64_t y = 0; y < 96; ++y) {
        for (int64_t x = 0; x < 96; ++x) {
          picture.levels.push_back(
              0.1 + background_level(kDefaultFormat, scene,
                                     {static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5}));
          picture.is_known.push_back(x > 30 || y > 30 ? 1 : 0);
        }
      }
      const BackgroundFit fit = fit_background(picture);
      right += fit.background == background ? 1 : 0;
      EXPECT_LT(fit.error, 0.05);
      ++all;
    }
  }
  EXPECT_EQ(right, all);
}

}  // namespace
}  // namespace fastwan::eval
