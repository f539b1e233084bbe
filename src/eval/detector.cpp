#include "eval/detector.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "base/shape.h"
#include "eval/background.h"
#include "eval/foreground.h"
#include "eval/temporal.h"

namespace fastwan::eval {
namespace {

using namespace data::shapes;

constexpr double kPi = std::numbers::pi;
constexpr double kSizeThreshold = 275;   // square pixels at 96 x 96: small <= 227, large >= 333
constexpr int64_t kRotations = 24;       // of one symmetry period
constexpr std::size_t kShapeFrames = 3;  // frames that vote on the shape
constexpr int64_t kMovingMargin = 2;     // pixels around the foreground that count as moving
constexpr double kSmallestFoundShare = 0.5;

FrameView view_of(const at::Tensor& frames) {
  return {.values = frames.const_data_ptr<float>(),
          .format = {frames.size(0), frames.size(2), frames.size(3)}};
}

// fp32, contiguous, on the CPU, of a legal size.
at::Tensor checked(const at::Tensor& frames) {
  Shapes shapes("detector");
  shapes.expect("frames", frames.sizes(), "F 3 P Q");
  check_format({frames.size(0), frames.size(2), frames.size(3)});
  return frames.to(at::kCPU, at::kFloat).contiguous();
}

// One frame's object and when it was seen.
struct Sighting {
  double frame = 0;
  Object object;
};

struct Seen {
  std::vector<Sighting> sightings;
  std::vector<std::vector<uint8_t>> moving;  // per frame, [P, Q]
  double fragment_share = 0;
};

Seen look(const FrameView& frames) {
  Seen seen;
  for (int64_t frame = 0; frame < frames.format.frames; ++frame) {
    const std::vector<uint8_t> foreground = foreground_of(frames, frame);
    seen.moving.push_back(widen(foreground, frames.format, kMovingMargin));
    Object object = find_object(frames, frame, foreground);
    if (object.is_found) {
      seen.fragment_share += object.fragment_share;
      seen.sightings.push_back({static_cast<double>(frame), std::move(object)});
    }
  }
  if (!seen.sightings.empty()) {
    seen.fragment_share /= static_cast<double>(seen.sightings.size());
  }
  return seen;
}

// --- colour --------------------------------------------------------------------------------------

int64_t nearest_of_eight(double degrees) {
  return (static_cast<int64_t>(std::lround(degrees / 45)) % 8 + 8) % 8;
}

Rgb mean_of(const std::vector<Sighting>& sightings, Rgb Object::*colour) {
  Rgb sum;
  for (const Sighting& s : sightings) {
    sum.red += (s.object.*colour).red;
    sum.green += (s.object.*colour).green;
    sum.blue += (s.object.*colour).blue;
  }
  const auto n = static_cast<double>(sightings.size());
  return {sum.red / n, sum.green / n, sum.blue / n};
}

void measure_colour(const std::vector<Sighting>& sightings, Detection& found) {
  const Rgb mean = mean_of(sightings, &Object::colour);
  found.hue_degrees = hue_degrees_of(mean);
  found.attributes.colour = static_cast<Colour>(nearest_of_eight(found.hue_degrees));
  const Rgb inner = mean_of(sightings, &Object::inner);
  const double high = std::max({inner.red, inner.green, inner.blue});
  found.saturation = high > 0 ? (high - std::min({inner.red, inner.green, inner.blue})) / high : 0;
  double squares = 0;
  for (const Sighting& s : sightings) {
    const Rgb& c = s.object.inner;
    squares += std::pow(c.red - inner.red, 2) + std::pow(c.green - inner.green, 2) +
               std::pow(c.blue - inner.blue, 2);
  }
  found.colour_variation = std::sqrt(squares / static_cast<double>(sightings.size()));
}

void measure_first_frame(const FrameView& frames,
                         const std::vector<Sighting>& sightings,
                         Detection& found) {
  constexpr double kWrongHue = 22.5;  // degrees: half the way between two of eight hues
  found.first_frame_hue_error = 1;
  if (sightings.front().frame > 0) {
    return;
  }
  const std::vector<int64_t>& pixels = sightings.front().object.pixels;
  int64_t wrong = 0;
  for (const int64_t pixel : pixels) {
    const double hue =
        hue_degrees_of({frames.at(0, 0, pixel), frames.at(0, 1, pixel), frames.at(0, 2, pixel)});
    wrong += std::abs(std::remainder(hue - found.hue_degrees, 360.0)) > kWrongHue ? 1 : 0;
  }
  found.first_frame_hue_error = static_cast<double>(wrong) / static_cast<double>(pixels.size());
}

// --- size and motion -----------------------------------------------------------------------------

void measure_size(const std::vector<Sighting>& sightings, const Format& format, Detection& found) {
  double sum = 0, squares = 0;
  for (const Sighting& s : sightings) {
    sum += s.object.area;
    squares += s.object.area * s.object.area;
  }
  const auto n = static_cast<double>(sightings.size());
  found.area_px = sum / n;
  found.area_variation =
      std::sqrt(std::max(0.0, squares / n - found.area_px * found.area_px)) / found.area_px;
  const double scale = scale_of(format);
  found.attributes.size =
      found.area_px < kSizeThreshold * scale * scale ? Size::kSmall : Size::kLarge;
}

void measure_motion(const std::vector<Sighting>& sightings,
                    const Format& format,
                    Detection& found) {
  const auto n = static_cast<double>(sightings.size());
  double time = 0;
  Point middle;
  for (const Sighting& s : sightings) {
    time += s.frame / n;
    middle.x += s.object.centroid.x / n;
    middle.y += s.object.centroid.y / n;
  }
  double spread = 0;
  Point moment;
  for (const Sighting& s : sightings) {
    spread += (s.frame - time) * (s.frame - time);
    moment.x += (s.frame - time) * (s.object.centroid.x - middle.x);
    moment.y += (s.frame - time) * (s.object.centroid.y - middle.y);
  }
  if (spread > 0) {
    found.velocity = {moment.x / spread, moment.y / spread};
  }
  found.start = {middle.x - time * found.velocity.x, middle.y - time * found.velocity.y};
  double squares = 0;
  for (const Sighting& s : sightings) {
    squares += std::pow(s.object.centroid.x - found.start.x - s.frame * found.velocity.x, 2) +
               std::pow(s.object.centroid.y - found.start.y - s.frame * found.velocity.y, 2);
  }
  found.centroid_residual_px = std::sqrt(squares / n);
  found.attributes.direction = static_cast<Direction>(
      nearest_of_eight(std::atan2(-found.velocity.y, found.velocity.x) * 180 / kPi));
  const double middle_speed =
      (speed_px_per_frame(format, Speed::kSlow) + speed_px_per_frame(format, Speed::kFast)) / 2;
  found.attributes.speed =
      std::hypot(found.velocity.x, found.velocity.y) < middle_speed ? Speed::kSlow : Speed::kFast;
}

// --- shape ---------------------------------------------------------------------------------------

// Intersection over union of the object's coverage and a template's, centred on its centroid.
double overlap(const Object& object, const Format& format, Shape shape, double rotation) {
  const double radius = std::sqrt(object.area / area_px(shape, 1));
  const Outline outline(shape, radius, rotation);
  const auto bound = [](double at, int64_t limit) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::floor(at)), 0, limit);
  };
  double both = 0, inside = 0;  // `inside`: of the template within the frame
  const int64_t bottom = bound(object.centroid.y + radius + 2, format.height);
  const int64_t right = bound(object.centroid.x + radius + 2, format.width);
  for (int64_t row = bound(object.centroid.y - radius - 1, format.height); row < bottom; ++row) {
    for (int64_t column = bound(object.centroid.x - radius - 1, format.width); column < right;
         ++column) {
      const double wanted = outline.coverage({static_cast<double>(column) + 0.5 - object.centroid.x,
                                              static_cast<double>(row) + 0.5 - object.centroid.y});
      both += std::min<double>(
          wanted, object.coverage[static_cast<std::size_t>(row * format.width + column)]);
      inside += wanted;
    }
  }
  return both / (object.area + inside - both);
}

void measure_shape(const std::vector<Sighting>& sightings, const Format& format, Detection& found) {
  std::vector<const Object*> voters;
  const std::size_t count = std::min(kShapeFrames, sightings.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t place = count == 1 ? 0 : i * (sightings.size() - 1) / (count - 1);
    voters.push_back(&sightings[place].object);
  }
  found.overlap = -1;
  const auto try_template = [&](Shape shape, double rotation) {
    double sum = 0;
    for (const Object* object : voters) {
      sum += overlap(*object, format, shape, rotation);
    }
    sum /= static_cast<double>(voters.size());
    if (sum > found.overlap) {
      found.overlap = sum;
      found.attributes.shape = shape;
      found.rotation = rotation;
    }
  };
  for (const Shape shape : {Shape::kCircle, Shape::kSquare, Shape::kTriangle, Shape::kPlus}) {
    const int64_t rotations = shape == Shape::kCircle ? 1 : kRotations;
    for (int64_t i = 0; i < rotations; ++i) {
      try_template(
          shape, symmetry_period(shape) * static_cast<double>(i) / static_cast<double>(rotations));
    }
  }
  if (found.attributes.shape == Shape::kCircle) {
    return;
  }
  const Shape shape = found.attributes.shape;
  const double period = symmetry_period(shape);
  for (double step = period / kRotations / 2; step > period / kRotations / 16; step /= 2) {
    const double coarse = found.rotation;
    try_template(shape, coarse - step);
    try_template(shape, coarse + step);
  }
  found.rotation -= period * std::floor(found.rotation / period);
}

// --- background ----------------------------------------------------------------------------------

StillPicture still_picture(const FrameView& frames,
                           const std::vector<std::vector<uint8_t>>& moving) {
  const auto num_pixels = static_cast<std::size_t>(frames.num_pixels());
  StillPicture picture{.format = frames.format,
                       .levels = std::vector<double>(num_pixels),
                       .is_known = std::vector<uint8_t>(num_pixels)};
  std::vector<int64_t> counts(num_pixels);
  for (int64_t frame = 0; frame < frames.format.frames; ++frame) {
    for (std::size_t pixel = 0; pixel < num_pixels; ++pixel) {
      if (moving[static_cast<std::size_t>(frame)][pixel] == 0) {
        const auto place = static_cast<int64_t>(pixel);
        picture.levels[pixel] +=
            (frames.at(frame, 0, place) + frames.at(frame, 1, place) + frames.at(frame, 2, place)) /
            3;
        ++counts[pixel];
      }
    }
  }
  for (std::size_t pixel = 0; pixel < num_pixels; ++pixel) {
    picture.is_known[pixel] = counts[pixel] > 0 ? 1 : 0;
    picture.levels[pixel] /= static_cast<double>(std::max<int64_t>(1, counts[pixel]));
  }
  return picture;
}

at::Tensor to_tensor(const std::vector<std::vector<uint8_t>>& masks, const Format& format) {
  at::Tensor out = at::zeros({format.frames, format.height, format.width}, at::kBool);
  bool* to = out.mutable_data_ptr<bool>();
  for (const std::vector<uint8_t>& mask : masks) {
    to = std::transform(mask.begin(), mask.end(), to, [](uint8_t value) { return value != 0; });
  }
  return out;
}

}  // namespace

double symmetry_period(Shape shape) {
  switch (shape) {
    case Shape::kCircle:
      return 2 * kPi;
    case Shape::kTriangle:
      return 2 * kPi / 3;
    case Shape::kSquare:
    case Shape::kPlus:
      return kPi / 2;
  }
  return 2 * kPi;
}

at::Tensor to_frames(const Clip& clip) {
  const at::Tensor bytes =
      at::from_blob(const_cast<uint8_t*>(clip.rgb.data()),  // read only
                    {clip.format.frames, clip.format.height, clip.format.width, 3}, at::kByte);
  return bytes.permute({0, 3, 1, 2}).to(at::kFloat).div_(255).contiguous();  // [F, 3, P, Q]
}

at::Tensor moving_region(const at::Tensor& frames_any) {
  const at::Tensor frames = checked(frames_any);
  const FrameView view = view_of(frames);
  return to_tensor(look(view).moving, view.format);
}

Detection detect(const at::Tensor& frames_any) {
  const at::Tensor frames = checked(frames_any);  // [F, 3, P, Q]
  const FrameView view = view_of(frames);
  const Seen seen = look(view);
  Detection found;
  found.found_share =
      static_cast<double>(seen.sightings.size()) / static_cast<double>(view.format.frames);
  found.flicker = still_flicker(frames, to_tensor(seen.moving, view.format));
  const BackgroundFit background = fit_background(still_picture(view, seen.moving));
  found.attributes.background = background.background;
  found.background_error = background.error;
  found.background_angle = background.angle;
  found.is_found = found.found_share >= kSmallestFoundShare;
  if (found.is_found) {
    found.fragment_share = seen.fragment_share;
    measure_colour(seen.sightings, found);
    measure_first_frame(view, seen.sightings, found);
    measure_size(seen.sightings, view.format, found);
    measure_motion(seen.sightings, view.format, found);
    measure_shape(seen.sightings, view.format, found);
  }
  return found;
}

}  // namespace fastwan::eval
