#include "data/shapes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "base/check.h"
#include "base/rng.h"
#include "base/text.h"

namespace fastwan::data::shapes {
namespace {

constexpr double kPi = std::numbers::pi;

constexpr double kReferenceSide = 96;
constexpr double kReferenceSteps = 28;  // between 29 frames
constexpr double kMargin = 1;           // pixels between the object and the frame's border
constexpr int64_t kSmallestSide = 32;   // below, a small plus has bars thinner than two pixels

constexpr double kSmallRadius = 10, kLargeRadius = 16;
constexpr double kSlow = 0.7, kFast = 1.6;
constexpr double kCircleRadius = 0.85, kSquareHalfSide = 0.70;  // of the circumradius
constexpr double kPlusHalfLength = 0.95, kPlusHalfWidth = 0.30;

constexpr double kSaturation = 0.85, kValue = 0.95;
constexpr double kHueStep = 45, kHueJitter = 10.8;  // degrees
constexpr double kCell = 16;                        // width of a stripe, side of a checker's cell
constexpr double kPlainLevel = 0.35, kDarkLevel = 0.25, kLightLevel = 0.50;
constexpr double kGradientLow = 0.20, kGradientHigh = 0.55;

// The elements of a clip's random stream. Clips depend on these numbers: append, never renumber.
enum class Draw : int64_t {
  kCode,
  kStartX,
  kStartY,
  kRotation,
  kHue,
  kBackgroundAngle,
  kBackgroundPhaseX,
  kBackgroundPhaseY,
  kTemplate,
  kSizeWord,
  kSpeedWord,
  kShapeWord
};

class Draws {
 public:
  Draws(uint64_t seed, int64_t index)
      : stream_(seed, Stream::kData, index >> 32, index & 0xffffffff) {}
  double uniform(Draw draw) const { return stream_.uniform(static_cast<int64_t>(draw)); }
  double between(Draw draw, double low, double high) const {
    return low + (high - low) * uniform(draw);
  }
  int64_t below(Draw draw, int64_t count) const {
    return static_cast<int64_t>(uniform(draw) * static_cast<double>(count));
  }

 private:
  Philox stream_;
};

// --- language ------------------------------------------------------------------------------------

using Words = std::vector<std::string_view>;

Words words_of(Colour colour) {
  constexpr std::array<std::string_view, 8> kWords = {"red",  "orange", "lime",   "green",
                                                      "cyan", "blue",   "purple", "pink"};
  return {kWords[static_cast<std::size_t>(colour)]};
}
Words words_of(Shape shape) {
  static const std::array<Words, 4> kWords = {
      Words{"circle", "disc"}, {"square", "box"}, {"triangle", "wedge"}, {"plus", "cross"}};
  return kWords[static_cast<std::size_t>(shape)];
}
Words words_of(Direction direction) {
  constexpr std::array<std::string_view, 8> kWords = {
      "right", "upper right", "top", "upper left", "left", "lower left", "bottom", "lower right"};
  return {kWords[static_cast<std::size_t>(direction)]};
}
Words words_of(Size size) {
  return size == Size::kSmall ? Words{"small", "little", "tiny"} : Words{"large", "big", "huge"};
}
Words words_of(Speed speed) {
  return speed == Speed::kSlow ? Words{"slowly", "gently"} : Words{"quickly", "rapidly"};
}
Words words_of(Background background) {
  constexpr std::array<std::string_view, 4> kWords = {"plain", "striped", "checkered", "gradient"};
  return {kWords[static_cast<std::size_t>(background)]};
}

template <class Attribute>
std::string pick(Attribute attribute, int64_t choice) {
  const Words words = words_of(attribute);
  return std::string(words[static_cast<std::size_t>(choice) % words.size()]);
}

// The four ways to say it; words in braces are replaced.
constexpr std::array<std::string_view, kNumTemplates> kTemplates = {
    "a {size} {colour} {shape} moves {speed} to the {direction} on a {background} background",
    "{size} {colour} {shape} travelling {speed} toward the {direction} over a {background} "
    "backdrop",
    "on a {background} background , a {size} {colour} {shape} drifts {speed} toward the "
    "{direction}",
    "the {shape} is {colour} and {size} ; it heads {speed} to the {direction} ; the background is "
    "{background}"};

// --- geometry ------------------------------------------------------------------------------------

// Distance to an axis-parallel box of these half sides.
double box_distance(double half_x, double half_y, Point p) {
  const double x = std::abs(p.x) - half_x;
  const double y = std::abs(p.y) - half_y;
  return std::hypot(std::max(x, 0.0), std::max(y, 0.0)) + std::min(std::max(x, y), 0.0);
}

// Distance to the segment a-b.
double segment_distance(Point a, Point b, Point p) {
  const Point along{b.x - a.x, b.y - a.y};
  const Point from{p.x - a.x, p.y - a.y};
  const double share = std::clamp(
      (from.x * along.x + from.y * along.y) / (along.x * along.x + along.y * along.y), 0.0, 1.0);
  return std::hypot(from.x - share * along.x, from.y - share * along.y);
}

// Directions of the corners of a triangle, the first to the right.
constexpr std::array<Point, 3> kCorners = {
    Point{1, 0}, {-0.5, std::numbers::sqrt3 / 2}, {-0.5, -std::numbers::sqrt3 / 2}};

double triangle_distance(double radius, Point p) {
  double to_sides = -std::numeric_limits<double>::infinity();  // each lies opposite a corner
  for (const Point& corner : kCorners) {
    to_sides = std::max(to_sides, -(p.x * corner.x + p.y * corner.y) - radius / 2);
  }
  if (to_sides <= 0) {
    return to_sides;
  }
  double nearest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kCorners.size(); ++i) {
    const Point& a = kCorners[i];
    const Point& b = kCorners[(i + 1) % kCorners.size()];
    nearest = std::min(
        nearest, segment_distance({radius * a.x, radius * a.y}, {radius * b.x, radius * b.y}, p));
  }
  return nearest;
}

// A square wave of period 2, 1 on [0, 1) and -1 on [1, 2), whose edges are `softness` wide.
double soft_square_wave(double x, double softness) {
  const double place = x - 2 * std::floor(x / 2);  // [0, 2)
  const double to_edge = std::min({place, std::abs(place - 1), 2 - place});
  return (place < 1 ? 1.0 : -1.0) * std::min(to_edge / (softness / 2), 1.0);
}

uint8_t to_byte(double value) {
  return static_cast<uint8_t>(std::lround(255 * value));
}

}  // namespace

// --- attributes ----------------------------------------------------------------------------------

std::array<int64_t, kNumAttributes> labels_of(const Attributes& a) {
  return {static_cast<int64_t>(a.colour),    static_cast<int64_t>(a.shape),
          static_cast<int64_t>(a.direction), static_cast<int64_t>(a.size),
          static_cast<int64_t>(a.speed),     static_cast<int64_t>(a.background)};
}

int64_t code_of(const Attributes& attributes) {
  const auto labels = labels_of(attributes);
  int64_t code = 0;
  for (std::size_t i = 0; i < kNumAttributes; ++i) {
    code = code * kAttributeSizes[i] + labels[i];
  }
  return code;
}

Attributes attributes_of(int64_t code) {
  invariant(code >= 0 && code < kNumCodes, "a code is in [0, 4096)");
  std::array<int64_t, kNumAttributes> labels{};
  for (std::size_t i = kNumAttributes; i-- > 0;) {
    labels[i] = code % kAttributeSizes[i];
    code /= kAttributeSizes[i];
  }
  return {.colour = static_cast<Colour>(labels[0]),
          .shape = static_cast<Shape>(labels[1]),
          .direction = static_cast<Direction>(labels[2]),
          .size = static_cast<Size>(labels[3]),
          .speed = static_cast<Speed>(labels[4]),
          .background = static_cast<Background>(labels[5])};
}

uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

bool is_held_out(int64_t code) {
  return splitmix64(static_cast<uint64_t>(code)) % 10 == 0;
}

namespace {
std::vector<int64_t> codes_where(bool held_out) {
  std::vector<int64_t> codes;
  for (int64_t code = 0; code < kNumCodes; ++code) {
    if (is_held_out(code) == held_out) {
      codes.push_back(code);
    }
  }
  return codes;
}
}  // namespace

const std::vector<int64_t>& seen_codes() {
  static const std::vector<int64_t> kCodes = codes_where(/*held_out=*/false);
  return kCodes;
}

const std::vector<int64_t>& held_out_codes() {
  static const std::vector<int64_t> kCodes = codes_where(/*held_out=*/true);
  return kCodes;
}

// --- geometry ------------------------------------------------------------------------------------

void check_format(const Format& format) {
  if (format.frames < 2 || format.height < kSmallestSide || format.width < kSmallestSide) {
    throw InvalidInput(Code::kBadValue, str("procedural clips need 2 frames and sides of ",
                                            kSmallestSide, " pixels or more, got ", format.frames,
                                            " frames of ", format.width, " x ", format.height));
  }
}

double scale_of(const Format& format) {
  return static_cast<double>(std::min(format.height, format.width)) / kReferenceSide;
}

double circumradius_px(const Format& format, Size size) {
  return scale_of(format) * (size == Size::kSmall ? kSmallRadius : kLargeRadius);
}

double speed_px_per_frame(const Format& format, Speed speed) {
  return scale_of(format) * (speed == Speed::kSlow ? kSlow : kFast) * kReferenceSteps /
         static_cast<double>(format.frames - 1);
}

double cell_px(const Format& format) {
  return kCell * scale_of(format);
}

Point direction_vector(Direction direction) {
  constexpr double kDiagonal = std::numbers::sqrt2 / 2;
  constexpr std::array<Point, 8> kVectors = {
      Point{1, 0}, {kDiagonal, -kDiagonal}, {0, -1}, {-kDiagonal, -kDiagonal},
      {-1, 0},     {-kDiagonal, kDiagonal}, {0, 1},  {kDiagonal, kDiagonal}};
  return kVectors[static_cast<std::size_t>(direction)];
}

StartRectangle start_rectangle(const Format& format, const Attributes& attributes) {
  const double border = circumradius_px(format, attributes.size) + kMargin;
  const double way =
      speed_px_per_frame(format, attributes.speed) * static_cast<double>(format.frames - 1);
  const Point unit = direction_vector(attributes.direction);
  const Point moved{way * unit.x, way * unit.y};
  return {.low = {border - std::min(0.0, moved.x), border - std::min(0.0, moved.y)},
          .high = {static_cast<double>(format.width) - border - std::max(0.0, moved.x),
                   static_cast<double>(format.height) - border - std::max(0.0, moved.y)}};
}

double signed_distance(Shape shape, double radius, Point p) {
  switch (shape) {
    case Shape::kCircle:
      return std::hypot(p.x, p.y) - kCircleRadius * radius;
    case Shape::kSquare:
      return box_distance(kSquareHalfSide * radius, kSquareHalfSide * radius, p);
    case Shape::kTriangle:
      return triangle_distance(radius, p);
    case Shape::kPlus:  // exact outside; inside, a lower bound that is exact at the border
      return std::min(box_distance(kPlusHalfLength * radius, kPlusHalfWidth * radius, p),
                      box_distance(kPlusHalfWidth * radius, kPlusHalfLength * radius, p));
  }
  invariant(false, "every shape has a distance");
  return 0;
}

Outline::Outline(Shape shape, double radius, double rotation)
    : shape_(shape), radius_(radius), cos_(std::cos(rotation)), sin_(std::sin(rotation)) {}

double Outline::coverage(Point from_centre) const {
  const double x = from_centre.x;
  const double y = -from_centre.y;  // up
  const Point own{cos_ * x + sin_ * y, -sin_ * x + cos_ * y};
  return std::clamp(0.5 - signed_distance(shape_, radius_, own), 0.0, 1.0);
}

double area_px(Shape shape, double radius) {
  const double square = radius * radius;
  switch (shape) {
    case Shape::kCircle:
      return kPi * kCircleRadius * kCircleRadius * square;
    case Shape::kSquare:
      return 4 * kSquareHalfSide * kSquareHalfSide * square;
    case Shape::kTriangle:
      return 0.75 * std::numbers::sqrt3 * square;
    case Shape::kPlus:
      return (8 * kPlusHalfLength * kPlusHalfWidth - 4 * kPlusHalfWidth * kPlusHalfWidth) * square;
  }
  invariant(false, "every shape has an area");
  return 0;
}

double background_level(const Format& format, const Scene& scene, Point p) {
  const double cell = cell_px(format);
  const double middle = (kDarkLevel + kLightLevel) / 2, swing = (kLightLevel - kDarkLevel) / 2;
  const double cos = std::cos(scene.background_angle), sin = std::sin(scene.background_angle);
  switch (scene.attributes.background) {
    case Background::kPlain:
      return kPlainLevel;
    case Background::kStripes: {
      const double along = p.x * cos - p.y * sin;
      return middle +
             swing * soft_square_wave(along / cell + 2 * scene.background_phase.x, 1 / cell);
    }
    case Background::kChecker:
      return middle + swing *
                          soft_square_wave(p.x / cell + 2 * scene.background_phase.x, 1 / cell) *
                          soft_square_wave(p.y / cell + 2 * scene.background_phase.y, 1 / cell);
    case Background::kGradient: {
      const auto width = static_cast<double>(format.width);
      const auto height = static_cast<double>(format.height);
      const double along = (p.x - width / 2) * cos - (p.y - height / 2) * sin;
      const double extent = width * std::abs(cos) + height * std::abs(sin);
      return kGradientLow + (kGradientHigh - kGradientLow) * (0.5 + along / extent);
    }
  }
  invariant(false, "every background has a level");
  return 0;
}

Point centre_at(const Format& format, const Scene& scene, int64_t frame) {
  const double way =
      speed_px_per_frame(format, scene.attributes.speed) * static_cast<double>(frame);
  const Point unit = direction_vector(scene.attributes.direction);
  return {scene.start.x + way * unit.x, scene.start.y + way * unit.y};
}

Rgb hsv_to_rgb(double hue_degrees, double saturation, double value) {
  const double sector = (hue_degrees - 360 * std::floor(hue_degrees / 360)) / 60;  // [0, 6)
  const auto channel = [&](double offset) {
    const double k = std::fmod(offset + sector, 6.0);
    return value - value * saturation * std::clamp(std::min(k, 4 - k), 0.0, 1.0);
  };
  return {channel(5), channel(3), channel(1)};
}

// --- scenes and clips ----------------------------------------------------------------------------

namespace {

void check_index(int64_t index) {
  if (index < 0 || index >= kNumIndices) {
    throw InvalidInput(Code::kBadValue, str("the index of a procedural clip must be in [0, ",
                                            kNumIndices, "), got ", index));
  }
}

Attributes draw_attributes(const Draws& draws, int64_t index) {
  const std::vector<int64_t>& codes =
      kEvaluationHeldOut.holds(index) ? held_out_codes() : seen_codes();
  const auto place = draws.below(Draw::kCode, static_cast<int64_t>(codes.size()));
  return attributes_of(codes[static_cast<std::size_t>(place)]);
}

}  // namespace

double angle_period(Background background) {
  return background == Background::kStripes ? kPi : 2 * kPi;
}

Scene draw_scene(const Format& format, uint64_t seed, int64_t index) {
  check_index(index);
  return draw_scene(format, seed, index, draw_attributes(Draws(seed, index), index));
}

Scene draw_scene(const Format& format, uint64_t seed, int64_t index, const Attributes& attributes) {
  check_format(format);
  check_index(index);
  const Draws draws(seed, index);
  const StartRectangle rectangle = start_rectangle(format, attributes);
  const Wording wording{.caption_template = draws.below(Draw::kTemplate, kNumTemplates),
                        .size_word = draws.below(Draw::kSizeWord, 3),
                        .speed_word = draws.below(Draw::kSpeedWord, 2),
                        .shape_word = draws.below(Draw::kShapeWord, 2)};
  return {.attributes = attributes,
          .start = {draws.between(Draw::kStartX, rectangle.low.x, rectangle.high.x),
                    draws.between(Draw::kStartY, rectangle.low.y, rectangle.high.y)},
          .rotation = draws.between(Draw::kRotation, 0, 2 * kPi),
          .hue_degrees = kHueStep * static_cast<double>(attributes.colour) +
                         draws.between(Draw::kHue, -kHueJitter, kHueJitter),
          .background_angle =
              draws.between(Draw::kBackgroundAngle, 0, angle_period(attributes.background)),
          .background_phase = {draws.uniform(Draw::kBackgroundPhaseX),
                               draws.uniform(Draw::kBackgroundPhaseY)},
          .caption = caption_of(attributes, wording)};
}

namespace {

std::vector<double> background_levels(const Format& format, const Scene& scene) {
  std::vector<double> levels;  // [P, Q]
  levels.reserve(static_cast<std::size_t>(format.height * format.width));
  for (int64_t row = 0; row < format.height; ++row) {
    for (int64_t column = 0; column < format.width; ++column) {
      levels.push_back(background_level(
          format, scene, {static_cast<double>(column) + 0.5, static_cast<double>(row) + 0.5}));
    }
  }
  return levels;
}

// The object over one frame that holds the background.
void draw_object(const Format& format,
                 const Scene& scene,
                 int64_t frame,
                 std::span<const double> levels,
                 std::span<uint8_t> rgb) {
  const Rgb colour = hsv_to_rgb(scene.hue_degrees, kSaturation, kValue);
  const double radius = circumradius_px(format, scene.attributes.size);
  const Outline outline(scene.attributes.shape, radius, scene.rotation);
  const Point centre = centre_at(format, scene, frame);
  const auto bound = [](double at, int64_t limit) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::floor(at)), 0, limit);
  };
  const int64_t bottom = bound(centre.y + radius + 2, format.height);
  const int64_t right = bound(centre.x + radius + 2, format.width);
  for (int64_t row = bound(centre.y - radius - 1, format.height); row < bottom; ++row) {
    for (int64_t column = bound(centre.x - radius - 1, format.width); column < right; ++column) {
      const double share = outline.coverage({static_cast<double>(column) + 0.5 - centre.x,
                                             static_cast<double>(row) + 0.5 - centre.y});
      if (share <= 0) {
        continue;
      }
      const auto pixel = static_cast<std::size_t>(row * format.width + column);
      const double behind = (1 - share) * levels[pixel];
      rgb[3 * pixel] = to_byte(behind + share * colour.red);
      rgb[3 * pixel + 1] = to_byte(behind + share * colour.green);
      rgb[3 * pixel + 2] = to_byte(behind + share * colour.blue);
    }
  }
}

}  // namespace

Clip render(const Format& format, const Scene& scene) {
  check_format(format);
  const std::vector<double> levels = background_levels(format, scene);
  std::vector<uint8_t> background;  // [P, Q, 3]
  background.reserve(3 * levels.size());
  for (const double level : levels) {
    background.insert(background.end(), 3, to_byte(level));
  }
  Clip clip{.format = format, .scene = scene, .rgb = {}};
  clip.rgb.reserve(background.size() * static_cast<std::size_t>(format.frames));
  for (int64_t frame = 0; frame < format.frames; ++frame) {
    clip.rgb.insert(clip.rgb.end(), background.begin(), background.end());
    draw_object(format, scene, frame, levels, std::span(clip.rgb).last(background.size()));
  }
  return clip;
}

// --- language ------------------------------------------------------------------------------------

std::string caption_of(const Attributes& attributes, const Wording& wording) {
  std::string caption(kTemplates[static_cast<std::size_t>(wording.caption_template)]);
  caption = replace_all(caption, "{colour}", pick(attributes.colour, 0));
  caption = replace_all(caption, "{shape}", pick(attributes.shape, wording.shape_word));
  caption = replace_all(caption, "{direction}", pick(attributes.direction, 0));
  caption = replace_all(caption, "{size}", pick(attributes.size, wording.size_word));
  caption = replace_all(caption, "{speed}", pick(attributes.speed, wording.speed_word));
  return replace_all(caption, "{background}", pick(attributes.background, 0));
}

std::vector<std::string> vocabulary() {
  std::set<std::string> words;
  const auto add = [&words](std::string_view text) {
    for (const std::string& word : split(text, ' ')) {
      if (!word.starts_with('{')) {
        words.insert(word);
      }
    }
  };
  for (const std::string_view text : kTemplates) {
    add(text);
  }
  for (int64_t code = 0; code < kNumCodes; ++code) {
    const Attributes attributes = attributes_of(code);
    for (const Words& synonyms :
         {words_of(attributes.colour), words_of(attributes.shape), words_of(attributes.direction),
          words_of(attributes.size), words_of(attributes.speed), words_of(attributes.background)}) {
      for (const std::string_view word : synonyms) {
        add(word);
      }
    }
  }
  return {words.begin(), words.end()};
}

}  // namespace fastwan::data::shapes
