// Procedural captioned clips: one coloured shape that moves over a grey background. A clip is a
// pure function of (format, seed, index); nothing is stored, nothing is downloaded.
//
// Dims    F frames, P height, Q width in pixels
// Source  the tiny recipe's data set (docs of the training side); this header states its whole law
//
// Attributes, all of them said by the caption:
//   colour 8 x shape 4 x direction 8 x size 2 x speed 2 x background 4 = 4096 codes, mixed radix,
//   background fastest, then speed, size, direction, shape, colour.
//   A code is held out when splitmix64(code) % 10 == 0: 408 codes, never in a training clip.
//
// Geometry of a 96 x 96 x 29 clip, in pixels; pixel (i, j) has its centre at (j + .5, i + .5):
//   circumradius R = 10 (small), 16 (large); circle r = .85 R; square of half side .70 R;
//   equilateral triangle of circumradius R; plus of two bars, half length .95 R, half width .30 R.
//   Coverage of a pixel = clamp(1/2 - signed distance, 0, 1).
//   Centre(t) = start + speed t (cos 45k, -sin 45k), speed .7 (slow), 1.6 (fast) pixels a frame.
//   Colour: hue 45k degrees, saturation .85, value .95.
//   Backgrounds, grey and still: plain .35; stripes 16 wide, .25 and .50; checker of 16 x 16 cells,
//   .25 and .50; gradient from .20 to .55 across the frame. Their edges are one pixel soft.
// Another format scales every length by s = min(P, Q) / 96 and the speeds by s * 28 / (F - 1): a
// clip crosses the same share of its frame in whatever number of frames. Not scaled: the soft edge
// of one pixel and the margin of one pixel between object and frame.
//
// Nuisance, said nowhere, its law exact: start uniform on the rectangle from which the object stays
// inside [R + 1, Q - 1 - R] x [R + 1, P - 1 - R] all the time; rotation uniform; hue off by up to
// 10.8 degrees either way, uniform; stripes at an angle uniform in [0, 180) and a uniform phase,
// checker upright with two uniform phases, gradient towards an angle uniform in [0, 360).
//
// Randomness: Philox(seed, Stream::kData, step = index >> 32, slot = index & 0xffffffff), one
// uniform number an element (Draw in shapes.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fastwan::data::shapes {

// --- attributes ----------------------------------------------------------------------------------

enum class Colour { kRed, kOrange, kLime, kGreen, kCyan, kBlue, kPurple, kPink };
enum class Shape { kCircle, kSquare, kTriangle, kPlus };
// Counter-clockwise from the right, 45 degrees apart.
enum class Direction {
  kRight,
  kUpperRight,
  kTop,
  kUpperLeft,
  kLeft,
  kLowerLeft,
  kBottom,
  kLowerRight
};
enum class Size { kSmall, kLarge };
enum class Speed { kSlow, kFast };
enum class Background { kPlain, kStripes, kChecker, kGradient };

struct Attributes {
  Colour colour = Colour::kRed;
  Shape shape = Shape::kCircle;
  Direction direction = Direction::kRight;
  Size size = Size::kSmall;
  Speed speed = Speed::kSlow;
  Background background = Background::kPlain;
  friend bool operator==(const Attributes&, const Attributes&) = default;
};

inline constexpr std::size_t kNumAttributes = 6;
// In the order of the struct.
inline constexpr std::array<const char*, kNumAttributes> kAttributeNames = {
    "colour", "shape", "direction", "size", "speed", "background"};
inline constexpr std::array<int64_t, kNumAttributes> kAttributeSizes = {8, 4, 8, 2, 2, 4};
inline constexpr int64_t kNumCodes = 4096;

// The attributes as class indices, in the order of kAttributeNames; labels for heads and counts.
std::array<int64_t, kNumAttributes> labels_of(const Attributes& attributes);

int64_t code_of(const Attributes& attributes);
Attributes attributes_of(int64_t code);  // of [0, 4096)

uint64_t splitmix64(uint64_t x);  // splitmix64(0) = e220a8397b1dcdaf
bool is_held_out(int64_t code);
const std::vector<int64_t>& seen_codes();      // 3688, rising
const std::vector<int64_t>& held_out_codes();  // 408, rising

// --- which clips are for what --------------------------------------------------------------------

// Clips [first, first + count) of a seed. The ranges do not meet, so no clip of one purpose is ever
// a clip of another. All but kEvaluationHeldOut draw seen codes only.
struct IndexRange {
  int64_t first = 0;
  int64_t count = 0;
  bool holds(int64_t index) const { return index >= first && index < first + count; }
};
inline constexpr int64_t kRangeSize = int64_t{1} << 40;
inline constexpr IndexRange kTraining{0 * kRangeSize, kRangeSize};
inline constexpr IndexRange kVae{1 * kRangeSize, kRangeSize};
inline constexpr IndexRange kProbe{2 * kRangeSize, kRangeSize};  // text heads and feature net
inline constexpr IndexRange kEvaluation{3 * kRangeSize, kRangeSize};
inline constexpr IndexRange kEvaluationHeldOut{4 * kRangeSize, kRangeSize};
inline constexpr IndexRange kValidation{5 * kRangeSize, kRangeSize};  // loss during training
inline constexpr int64_t kNumIndices = 6 * kRangeSize;

// --- scenes and clips ----------------------------------------------------------------------------

struct Format {
  int64_t frames = 29;
  int64_t height = 96;
  int64_t width = 96;
  friend bool operator==(const Format&, const Format&) = default;
};
inline constexpr Format kDefaultFormat{};
inline constexpr Format kTinyCiFormat{.frames = 29, .height = 64, .width = 64};

// InvalidInput bad_value: fewer than 2 frames, a side below 32.
void check_format(const Format& format);
// s of the header comment.
double scale_of(const Format& format);
double circumradius_px(const Format& format, Size size);
double speed_px_per_frame(const Format& format, Speed speed);
double cell_px(const Format& format);  // width of a stripe, side of a checker's cell

struct Point {
  double x = 0;  // to the right
  double y = 0;  // down
};
// Unit vector on the screen, y down.
Point direction_vector(Direction direction);

// Where an object of these attributes may start.
struct StartRectangle {
  Point low;
  Point high;
};
StartRectangle start_rectangle(const Format& format, const Attributes& attributes);
// Radians after which a background looks the same but for its phase: a half turn for stripes.
double angle_period(Background background);

// Everything that decides a clip's pixels but its format.
struct Scene {
  Attributes attributes;
  Point start;                  // centre in frame 0, pixels
  double rotation = 0;          // radians, counter-clockwise, [0, 2 pi)
  double hue_degrees = 0;       // the colour's hue with its jitter; may be below 0
  double background_angle = 0;  // radians: stripes vary along it, the gradient rises along it
  Point background_phase;       // shares of a period, [0, 1); stripes use x
  std::string caption;
};

// Pure. The second form keeps the attributes and draws the rest, for many clips of one caption's
// meaning. InvalidInput bad_value: index outside [0, kNumIndices).
Scene draw_scene(const Format& format, uint64_t seed, int64_t index);
Scene draw_scene(const Format& format, uint64_t seed, int64_t index, const Attributes& attributes);

// Signed distance from `p` to an object of circumradius `radius` centred at the origin, not
// rotated; negative inside.
double signed_distance(Shape shape, double radius, Point p);
// An object, rotated counter-clockwise.
class Outline {
 public:
  Outline(Shape shape, double radius, double rotation);
  // Of the pixel whose centre lies there, y down.
  double coverage(Point from_centre) const;

 private:
  Shape shape_;
  double radius_, cos_, sin_;
};
// Exact area in square pixels.
double area_px(Shape shape, double radius);

// Grey level at a point.
double background_level(const Format& format, const Scene& scene, Point p);
Point centre_at(const Format& format, const Scene& scene, int64_t frame);

struct Rgb {
  double red = 0, green = 0, blue = 0;
};
Rgb hsv_to_rgb(double hue_degrees, double saturation, double value);

struct Clip {
  Format format;
  Scene scene;
  std::vector<uint8_t> rgb;  // [F, P, Q, 3], round(255 x)
};
Clip render(const Format& format, const Scene& scene);
inline Clip render(const Format& format, uint64_t seed, int64_t index) {
  return render(format, draw_scene(format, seed, index));
}

// --- language ------------------------------------------------------------------------------------

inline constexpr int64_t kNumTemplates = 4;
// Which of the ways to say it.
struct Wording {
  int64_t caption_template = 0;
  int64_t size_word = 0, speed_word = 0, shape_word = 0;  // taken modulo the number of synonyms
};
std::string caption_of(const Attributes& attributes, const Wording& wording);

// Every word that a caption can hold, sorted; punctuation stands alone. The tiny tokenizer's
// pieces.
std::vector<std::string> vocabulary();

}  // namespace fastwan::data::shapes
