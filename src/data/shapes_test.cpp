#include "data/shapes.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <numbers>
#include <set>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "text/tokenizer.h"

namespace fastwan::data::shapes {
namespace {

constexpr uint64_t kSeed = 2026;

TEST(ShapesCodes, CountInMixedRadixWithTheBackgroundFastest) {
  EXPECT_EQ(code_of({}), 0);
  EXPECT_EQ(code_of({.background = Background::kStripes}), 1);
  EXPECT_EQ(code_of({.speed = Speed::kFast}), 4);
  EXPECT_EQ(code_of({.size = Size::kLarge}), 8);
  EXPECT_EQ(code_of({.direction = Direction::kUpperRight}), 16);
  EXPECT_EQ(code_of({.shape = Shape::kSquare}), 128);
  EXPECT_EQ(code_of({.colour = Colour::kOrange}), 512);
  for (int64_t code = 0; code < kNumCodes; ++code) {
    ASSERT_EQ(code_of(attributes_of(code)), code);
  }
}

TEST(ShapesCodes, HoldOutATenthByTheStatedRule) {
  EXPECT_EQ(splitmix64(0), 0xe220a8397b1dcdafULL);
  EXPECT_EQ(held_out_codes().size(), 408u);
  EXPECT_EQ(seen_codes().size(), 4096u - 408u);
  const std::vector<int64_t> first(held_out_codes().begin(), held_out_codes().begin() + 8);
  EXPECT_EQ(first, (std::vector<int64_t>{2, 18, 29, 30, 31, 43, 68, 72}));
}

TEST(ShapesCodes, KeepEveryPairOfAttributesWellRepresentedAmongTheSeen) {
  std::map<std::array<int64_t, 4>, int64_t> count;  // attribute, value, attribute, value
  for (const int64_t code : seen_codes()) {
    const auto labels = labels_of(attributes_of(code));
    for (std::size_t a = 0; a < kNumAttributes; ++a) {
      for (std::size_t b = a + 1; b < kNumAttributes; ++b) {
        ++count[{static_cast<int64_t>(a), labels[a], static_cast<int64_t>(b), labels[b]}];
      }
    }
  }
  int64_t smallest = kNumCodes;
  std::size_t pairs = 0;
  for (std::size_t a = 0; a < kNumAttributes; ++a) {
    for (std::size_t b = a + 1; b < kNumAttributes; ++b) {
      pairs += static_cast<std::size_t>(kAttributeSizes[a] * kAttributeSizes[b]);
    }
  }
  for (const auto& [pair, n] : count) {
    smallest = std::min(smallest, n);
  }
  EXPECT_EQ(count.size(), pairs) << "a pair that is missing altogether";
  EXPECT_EQ(smallest, 53);
}

TEST(ShapesIndices, RangesOfPurposesDoNotMeet) {
  const std::array ranges = {kTraining, kVae, kProbe, kEvaluation, kEvaluationHeldOut, kValidation};
  for (std::size_t a = 0; a < ranges.size(); ++a) {
    for (std::size_t b = 0; b < ranges.size(); ++b) {
      EXPECT_EQ(ranges[a].holds(ranges[b].first), a == b);
      EXPECT_EQ(ranges[a].holds(ranges[b].first + ranges[b].count - 1), a == b);
    }
  }
  EXPECT_THROW(draw_scene(kDefaultFormat, kSeed, kNumIndices), InvalidInput);
  EXPECT_THROW(draw_scene(kDefaultFormat, kSeed, -1), InvalidInput);
}

TEST(ShapesIndices, OnlyTheHeldOutRangeShowsHeldOutCodes) {
  for (int64_t i = 0; i < 500; ++i) {
    for (const IndexRange& range : {kTraining, kVae, kProbe, kEvaluation, kValidation}) {
      ASSERT_FALSE(
          is_held_out(code_of(draw_scene(kDefaultFormat, kSeed, range.first + i).attributes)));
    }
    ASSERT_TRUE(is_held_out(
        code_of(draw_scene(kDefaultFormat, kSeed, kEvaluationHeldOut.first + i).attributes)));
  }
}

TEST(ShapesGeometry, AreasAreThoseOfTheFiguresAndSizesNeverOverlap) {
  EXPECT_NEAR(area_px(Shape::kCircle, 10), 226.98, 0.01);
  EXPECT_NEAR(area_px(Shape::kSquare, 10), 196, 1e-9);
  EXPECT_NEAR(area_px(Shape::kTriangle, 16), 332.55, 0.01);
  EXPECT_NEAR(area_px(Shape::kPlus, 10), 192, 1e-9);
  double largest_small = 0, smallest_large = 1e9;
  for (const Shape shape : {Shape::kCircle, Shape::kSquare, Shape::kTriangle, Shape::kPlus}) {
    largest_small = std::max(largest_small, area_px(shape, 10));
    smallest_large = std::min(smallest_large, area_px(shape, 16));
  }
  EXPECT_LE(largest_small, 227);
  EXPECT_GE(smallest_large, 332.5);
}

TEST(ShapesGeometry, CoverageSumsToTheAreaWhateverTheRotation) {
  for (const Shape shape : {Shape::kCircle, Shape::kSquare, Shape::kTriangle, Shape::kPlus}) {
    for (const double rotation : {0.0, 0.3, 1.1, 2.9}) {
      const Outline outline(shape, 16, rotation);
      double sum = 0;
      for (int y = -20; y <= 20; ++y) {
        for (int x = -20; x <= 20; ++x) {
          sum += outline.coverage({x + 0.21, y - 0.37});
        }
      }
      // Exact on average along straight edges; corners lose a part of a pixel each, a plus has
      // twelve.
      EXPECT_NEAR(sum, area_px(shape, 16), 4.0) << static_cast<int>(shape) << " at " << rotation;
    }
  }
}

TEST(ShapesGeometry, TriangleDistanceIsTheDistanceToTheNearestBorderPoint) {
  // Against the border sampled at 30000 points.
  std::vector<Point> border;
  for (int side = 0; side < 3; ++side) {
    const double a = 2 * std::numbers::pi * side / 3, b = 2 * std::numbers::pi * (side + 1) / 3;
    for (int i = 0; i < 10000; ++i) {
      const double share = i / 10000.0;
      border.push_back({10 * ((1 - share) * std::cos(a) + share * std::cos(b)),
                        10 * ((1 - share) * std::sin(a) + share * std::sin(b))});
    }
  }
  for (const Point p : {Point{12, 3}, {-8, 1}, {-4, 11}, {0, 0}, {3, 1}, {20, 0}, {-6, -9}}) {
    double nearest = 1e9;
    for (const Point& q : border) {
      nearest = std::min(nearest, std::hypot(p.x - q.x, p.y - q.y));
    }
    EXPECT_NEAR(std::abs(signed_distance(Shape::kTriangle, 10, p)), nearest, 1e-3);
  }
  EXPECT_LT(signed_distance(Shape::kTriangle, 10, {0, 0}), 0);
  EXPECT_GT(signed_distance(Shape::kTriangle, 10, {-5.1, 0}), 0);
}

TEST(ShapesGeometry, RotationTurnsCounterClockwiseOnTheScreen) {
  const Outline up(Shape::kTriangle, 16, std::numbers::pi / 2);  // its corner points up
  EXPECT_GT(up.coverage({0, -15}), 0.3);
  EXPECT_EQ(up.coverage({0, 15}), 0.0);
}

TEST(ShapesGeometry, ObjectsStayInsideForTheWholeClipAndUseTheWholeRectangle) {
  for (const Format& format : {kDefaultFormat, kTinyCiFormat, Format{13, 64, 96}}) {
    double nearest = 1e9;
    for (int64_t i = 0; i < 4000; ++i) {
      const Scene scene = draw_scene(format, kSeed, i);
      const double radius = circumradius_px(format, scene.attributes.size);
      for (const int64_t frame : {int64_t{0}, format.frames - 1}) {
        const Point at = centre_at(format, scene, frame);
        const double gap = std::min({at.x, static_cast<double>(format.width) - at.x, at.y,
                                     static_cast<double>(format.height) - at.y}) -
                           radius;
        ASSERT_GE(gap, 1 - 1e-9) << "index " << i << ", frame " << frame;
        nearest = std::min(nearest, gap);
      }
    }
    EXPECT_LT(nearest, 1.1);
  }
}

TEST(ShapesGeometry, DistancesAreAsStatedAt96AndScaleWithTheFormat) {
  EXPECT_DOUBLE_EQ(speed_px_per_frame(kDefaultFormat, Speed::kSlow), 0.7);
  EXPECT_DOUBLE_EQ(speed_px_per_frame(kDefaultFormat, Speed::kFast), 1.6);
  EXPECT_DOUBLE_EQ(circumradius_px(kTinyCiFormat, Size::kLarge), 16 * 64.0 / 96);
  EXPECT_DOUBLE_EQ(12 * speed_px_per_frame({13, 96, 96}, Speed::kFast), 28 * 1.6);
  EXPECT_THROW(check_format({29, 31, 96}), InvalidInput);
  EXPECT_THROW(check_format({1, 96, 96}), InvalidInput);
  EXPECT_NO_THROW(check_format({2, 32, 32}));
  // Never empty, the fastest large object included.
  const StartRectangle r =
      start_rectangle(kDefaultFormat, {.size = Size::kLarge, .speed = Speed::kFast});
  EXPECT_NEAR(r.high.x - r.low.x, 62 - 44.8, 1e-9);
  EXPECT_NEAR(r.high.y - r.low.y, 62, 1e-9);
}

// The upper 0.1 % point of chi-squared with 15 degrees of freedom.
constexpr double kChiSquared15 = 37.70;

double chi_squared(const std::vector<int64_t>& counts) {
  int64_t total = 0;
  for (const int64_t n : counts) {
    total += n;
  }
  const double expected = static_cast<double>(total) / static_cast<double>(counts.size());
  double sum = 0;
  for (const int64_t n : counts) {
    sum += std::pow(static_cast<double>(n) - expected, 2) / expected;
  }
  return sum;
}

std::size_t bin(double share, std::size_t bins) {
  return std::min(bins - 1, static_cast<std::size_t>(share * static_cast<double>(bins)));
}

TEST(ShapesNuisance, IsUniformAsItsLawSays) {
  std::vector<int64_t> starts(16), rotations(16), hues(16), phases(16);
  for (int64_t i = 0; i < 8000; ++i) {
    const Scene scene = draw_scene(kDefaultFormat, kSeed, i);
    const StartRectangle r = start_rectangle(kDefaultFormat, scene.attributes);
    const std::size_t column = bin((scene.start.x - r.low.x) / (r.high.x - r.low.x), 4);
    const std::size_t row = bin((scene.start.y - r.low.y) / (r.high.y - r.low.y), 4);
    ++starts[4 * row + column];
    ++rotations[bin(scene.rotation / (2 * std::numbers::pi), 16)];
    const double jitter = scene.hue_degrees - 45 * static_cast<double>(scene.attributes.colour);
    ++hues[bin((jitter + 10.8) / 21.6, 16)];
    ++phases[4 * bin(scene.background_phase.x, 4) + bin(scene.background_phase.y, 4)];
  }
  EXPECT_LT(chi_squared(starts), kChiSquared15);
  EXPECT_LT(chi_squared(rotations), kChiSquared15);
  EXPECT_LT(chi_squared(hues), kChiSquared15);
  EXPECT_LT(chi_squared(phases), kChiSquared15);
  // The test can fail: a tenth more in one cell is found.
  starts[5] += 250;
  EXPECT_GT(chi_squared(starts), kChiSquared15);
}

TEST(ShapesNuisance, AttributesAreUniformOverTheSeenCodes) {
  std::array<std::vector<int64_t>, kNumAttributes> counts;
  constexpr int64_t kDraws = 8000;
  for (std::size_t a = 0; a < kNumAttributes; ++a) {
    counts[a].resize(static_cast<std::size_t>(kAttributeSizes[a]));
  }
  for (int64_t i = 0; i < kDraws; ++i) {
    const auto labels = labels_of(draw_scene(kDefaultFormat, kSeed, i).attributes);
    for (std::size_t a = 0; a < kNumAttributes; ++a) {
      ++counts[a][static_cast<std::size_t>(labels[a])];
    }
  }
  for (std::size_t a = 0; a < kNumAttributes; ++a) {
    for (const int64_t n : counts[a]) {
      const double share = static_cast<double>(n) / kDraws;
      const double fair = 1.0 / static_cast<double>(kAttributeSizes[a]);
      // 4 standard errors, and 6 % for what the held-out codes take from a value.
      EXPECT_NEAR(share, fair, 0.06 * fair + 4 * std::sqrt(fair / kDraws)) << kAttributeNames[a];
    }
  }
}

TEST(ShapesScenes, DependOnSeedAndIndexAlone) {
  const Scene one = draw_scene(kDefaultFormat, 1, 77);
  EXPECT_EQ(render(kDefaultFormat, one).rgb, render(kDefaultFormat, 1, 77).rgb);
  EXPECT_NE(render(kDefaultFormat, 1, 77).rgb, render(kDefaultFormat, 1, 78).rgb);
  EXPECT_NE(render(kDefaultFormat, 1, 77).rgb, render(kDefaultFormat, 2, 77).rgb);
  // The upper half of a 64-bit index counts.
  EXPECT_NE(draw_scene(kDefaultFormat, 1, kVae.first).start.x,
            draw_scene(kDefaultFormat, 1, kTraining.first).start.x);
}

TEST(ShapesScenes, GivenAttributesReplaceTheDrawnOnesAndNothingElse) {
  const Scene drawn = draw_scene(kDefaultFormat, kSeed, 5);
  const Scene same = draw_scene(kDefaultFormat, kSeed, 5, drawn.attributes);
  EXPECT_EQ(render(kDefaultFormat, same).rgb, render(kDefaultFormat, drawn).rgb);
  EXPECT_EQ(same.caption, drawn.caption);
  Attributes other = drawn.attributes;
  other.colour = drawn.attributes.colour == Colour::kRed ? Colour::kBlue : Colour::kRed;
  const Scene recoloured = draw_scene(kDefaultFormat, kSeed, 5, other);
  EXPECT_EQ(recoloured.start.x, drawn.start.x);
  EXPECT_EQ(recoloured.rotation, drawn.rotation);
}

// Bytes of frame 0 at column, row.
std::array<int, 3> pixel(const Clip& clip, int64_t column, int64_t row, int64_t frame = 0) {
  const auto at = static_cast<std::size_t>(
      3 * ((frame * clip.format.height + row) * clip.format.width + column));
  return {clip.rgb[at], clip.rgb[at + 1], clip.rgb[at + 2]};
}

Scene scene_in_the_middle(Attributes attributes) {
  Scene scene = draw_scene(kDefaultFormat, kSeed, 0, attributes);
  scene.start = {48, 48};
  scene.rotation = 0;
  scene.hue_degrees = 0;
  scene.background_angle = 0;
  scene.background_phase = {0, 0};
  return scene;
}

TEST(ShapesRender, PixelsAreThoseOfTheFormula) {
  const Clip plain = render(kDefaultFormat, scene_in_the_middle({}));
  EXPECT_EQ(pixel(plain, 0, 0), (std::array<int, 3>{89, 89, 89}));     // .35
  EXPECT_EQ(pixel(plain, 48, 48), (std::array<int, 3>{242, 36, 36}));  // V .95, V (1 - S) .1425
  EXPECT_EQ(pixel(plain, 48 + 30, 48), (std::array<int, 3>{89, 89, 89}));
  EXPECT_EQ(pixel(plain, 48 + 19, 48, 28), (std::array<int, 3>{242, 36, 36})) << "19.6 px later";

  const Clip stripes =
      render(kDefaultFormat, scene_in_the_middle({.background = Background::kStripes}));
  EXPECT_EQ(pixel(stripes, 8, 0)[0], 128);   // .50 on [0, 16)
  EXPECT_EQ(pixel(stripes, 24, 90)[0], 64);  // .25 on [16, 32)
  EXPECT_EQ(pixel(stripes, 40, 3)[0], 128);
  const Clip checker =
      render(kDefaultFormat, scene_in_the_middle({.background = Background::kChecker}));
  EXPECT_EQ(pixel(checker, 8, 8)[0], 128);
  EXPECT_EQ(pixel(checker, 24, 8)[0], 64);
  EXPECT_EQ(pixel(checker, 24, 24)[0], 128);
  const Clip gradient =
      render(kDefaultFormat, scene_in_the_middle({.background = Background::kGradient}));
  EXPECT_EQ(pixel(gradient, 0, 5)[0], 51);    // .20 at the left border
  EXPECT_EQ(pixel(gradient, 95, 5)[0], 140);  // .55 at the right one
}

TEST(ShapesRender, HuesAreTheNamedColours) {
  const auto rgb = [](double hue) {
    const Rgb c = hsv_to_rgb(hue, 1, 1);
    return std::array<long, 3>{std::lround(4 * c.red), std::lround(4 * c.green),
                               std::lround(4 * c.blue)};
  };
  EXPECT_EQ(rgb(0), (std::array<long, 3>{4, 0, 0}));
  EXPECT_EQ(rgb(45), (std::array<long, 3>{4, 3, 0}));
  EXPECT_EQ(rgb(90), (std::array<long, 3>{2, 4, 0}));
  EXPECT_EQ(rgb(180), (std::array<long, 3>{0, 4, 4}));
  EXPECT_EQ(rgb(240), (std::array<long, 3>{0, 0, 4}));
  EXPECT_EQ(rgb(-60), (std::array<long, 3>{4, 0, 4}));
  EXPECT_EQ(rgb(360), rgb(0));
}

// sha256 of the bytes, first 16 digits. A change here changes every model trained before it.
struct GoldenClip {
  int64_t index;
  const char* digest;
  const char* caption;
};
constexpr GoldenClip kGoldenClips[] = {
    {0, "5186b4ed615f2578",
     "large blue square travelling quickly toward the left over a gradient backdrop"},
    {1, "96e52b3e0e5981f6",
     "on a gradient background , a tiny green disc drifts gently toward the lower left"},
    {2, "78847274084291ca", "a tiny lime circle moves slowly to the top on a gradient background"},
    {3, "f0cb977c081f2e0e",
     "on a gradient background , a little orange cross drifts slowly toward the right"},
    {1000, "21147dcc844c7de0",
     "big red circle travelling quickly toward the lower left over a plain backdrop"},
    {1001, "34945dd5b9f9616c",
     "large pink circle travelling slowly toward the upper left over a gradient backdrop"},
    {1002, "d363779ba26a280b",
     "on a plain background , a huge orange cross drifts quickly toward the lower right"},
    {1003, "a27543116a351eec",
     "on a striped background , a small purple circle drifts quickly toward the left"},
    {1099511627776, "307c9adaebab47af",
     "a big red wedge moves quickly to the upper right on a plain background"},
    {1099511627779, "eb6355242e8a3e6e",
     "large cyan box travelling rapidly toward the bottom over a striped backdrop"},
    {2199023255553, "15f9337e852c5128",
     "huge orange disc travelling slowly toward the right over a striped backdrop"},
    {2199023255559, "b9bed6f7538548f4",
     "a small cyan wedge moves quickly to the lower left on a plain background"},
    {3298534883328, "9bc3067bfa51a1f3",
     "large cyan box travelling rapidly toward the top over a striped backdrop"},
    {3298534883339, "46c1f3f7cbf34dcd",
     "the cross is lime and huge ; it heads gently to the left ; the background is checkered"},
    {4398046511104, "b1a31e0511ea4cfc",
     "small orange plus travelling gently toward the upper left over a plain backdrop"},
    {4398046511107, "197868f85bc3ae87",
     "tiny pink square travelling rapidly toward the upper left over a plain backdrop"}};

TEST(ShapesRender, SixteenClipsHaveTheirGoldenBytes) {
  ASSERT_EQ(std::size(kGoldenClips), 16u);
  for (const GoldenClip& golden : kGoldenClips) {
    const Format& format = golden.index % 4 == 3 ? kTinyCiFormat : kDefaultFormat;
    const Clip clip = render(format, 1000, golden.index);
    const std::string digest =
        sha256_hex(
            std::string_view(reinterpret_cast<const char*>(clip.rgb.data()), clip.rgb.size()))
            .substr(0, 16);
    EXPECT_EQ(digest, golden.digest) << golden.index;
    EXPECT_EQ(clip.scene.caption, golden.caption) << golden.index;
  }
}

TEST(ShapesCaptions, SayEveryAttributeInFourWays) {
  const Attributes a{.direction = Direction::kUpperLeft};
  EXPECT_EQ(caption_of(a, {}),
            "a small red circle moves slowly to the upper left on a plain background");
  EXPECT_EQ(caption_of(a, {.caption_template = 1, .size_word = 2, .shape_word = 1}),
            "tiny red disc travelling slowly toward the upper left over a plain backdrop");
  EXPECT_EQ(caption_of(a, {.caption_template = 2, .speed_word = 1}),
            "on a plain background , a small red circle drifts gently toward the upper left");
  EXPECT_EQ(caption_of(a, {.caption_template = 3, .size_word = 1}),
            "the circle is red and little ; it heads slowly to the upper left ; the background is "
            "plain");
}

TEST(ShapesCaptions, DistinguishEveryCombination) {
  for (int64_t wording = 0; wording < kNumTemplates; ++wording) {
    std::set<std::string> captions;
    for (int64_t code = 0; code < kNumCodes; ++code) {
      captions.insert(caption_of(attributes_of(code), {.caption_template = wording}));
    }
    EXPECT_EQ(captions.size(), static_cast<std::size_t>(kNumCodes));
  }
}

TEST(ShapesCaptions, UseAllWordsOfTheVocabularyAndNoOther) {
  std::set<std::string> used;
  std::size_t longest = 0;
  for (int64_t i = 0; i < 6000; ++i) {
    const std::vector<std::string> words = split(draw_scene(kDefaultFormat, kSeed, i).caption, ' ');
    longest = std::max(longest, words.size());
    used.insert(words.begin(), words.end());
  }
  EXPECT_EQ(longest + 1, 20u) << "tokens, the end of sequence included";
  const std::vector<std::string> words = vocabulary();
  EXPECT_EQ(std::vector<std::string>(used.begin(), used.end()), words);
  EXPECT_EQ(words.size() + 3, 56u) << "with <pad>, </s> and <unk>";
}

TEST(ShapesCaptions, WordListOfTheTokenizerToolIsTheVocabulary) {
  std::ifstream file("tools/shapes_words.txt");
  std::vector<std::string> words;
  for (std::string line; std::getline(file, line);) {
    words.push_back(line);
  }
  EXPECT_EQ(words, vocabulary());
}

TEST(ShapesCaptions, TheirTokenizerGivesEachWordAnIdOfItsOwn) {
  const auto tokenizer = text::open_tokenizer("tests/golden/data/shapes_tokenizer");
  std::set<int64_t> ids;
  for (const std::string& word : vocabulary()) {
    const std::vector<int64_t> tokens = tokenizer->encode(word);
    ASSERT_EQ(tokens.size(), 2u) << word;
    EXPECT_LT(tokens[0], 96);
    ids.insert(tokens[0]);
  }
  EXPECT_EQ(ids.size(), vocabulary().size());
  for (int64_t i = 0; i < 200; ++i) {
    const std::string caption = draw_scene(kDefaultFormat, kSeed, i).caption;
    const std::vector<int64_t> tokens = tokenizer->encode(caption);
    EXPECT_EQ(tokens.size(), split(caption, ' ').size() + 1) << caption;
    EXPECT_EQ(tokens.back(), tokenizer->eos_id());
  }
}

TEST(ShapesCaptions, TheirTokenizerEqualsTheTokenizersLibrary) {
  const auto tokenizer = text::open_tokenizer("tests/golden/data/shapes_tokenizer");
  const Json vectors = read_json_file("tests/golden/data/shapes_tokenizer/vectors.json");
  ASSERT_GE(vectors.size(), 30u);
  for (const Json& item : vectors) {
    EXPECT_EQ(tokenizer->encode(item[0].get<std::string>()), item[1].get<std::vector<int64_t>>())
        << item[0];
  }
}

}  // namespace
}  // namespace fastwan::data::shapes
