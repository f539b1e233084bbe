// Pillow's Lanczos, bit for bit (its src/libImaging/Resample.c): weights in double, rounded to
// fixed point with 22 fractional bits; first along rows, then along columns, 8 bits in between.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "base/check.h"
#include "io/image.h"

namespace fastwan::io {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr double kLobes = 3.0;

double sinc(double x) {
  if (x == 0.0) {
    return 1.0;
  }
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) {
  return -kLobes <= x && x < kLobes ? sinc(x) * sinc(x / kLobes) : 0.0;
}

// Which input samples make one output sample.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> weights;
};

int32_t to_fixed_point(double weight) {
  const double scaled = weight * (1 << kPrecisionBits);
  return static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);  // towards zero
}

std::vector<Taps> make_taps(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double filter_scale = std::max(scale, 1.0);
  const double support = kLobes * filter_scale;
  const double inverse = 1.0 / filter_scale;
  std::vector<Taps> all(static_cast<std::size_t>(to));
  for (int64_t out = 0; out < to; ++out) {
    const double center = (static_cast<double>(out) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const int64_t last = std::min(from, static_cast<int64_t>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0.0;
    for (int64_t i = first; i < last; ++i) {
      weights.push_back(lanczos((static_cast<double>(i) - center + 0.5) * inverse));
      sum += weights.back();
    }
    Taps& taps = all[static_cast<std::size_t>(out)];
    taps.first = first;
    for (const double weight : weights) {
      taps.weights.push_back(to_fixed_point(sum == 0.0 ? weight : weight / sum));
    }
  }
  return all;
}

uint8_t clip(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

// One output sample of each of the 3 channels; `step` bytes lie between the input samples.
void apply(const Taps& taps, const uint8_t* in, std::size_t step, uint8_t* out) {
  constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);
  int32_t red = kHalf;
  int32_t green = kHalf;
  int32_t blue = kHalf;
  in += static_cast<std::size_t>(taps.first) * step;
  for (const int32_t weight : taps.weights) {
    red += in[0] * weight;
    green += in[1] * weight;
    blue += in[2] * weight;
    in += step;
  }
  out[0] = clip(red);
  out[1] = clip(green);
  out[2] = clip(blue);
}

Image resize_rows(const Image& image, int64_t width) {
  const std::vector<Taps> taps = make_taps(image.width, width);
  Image out{width, image.height,
            std::vector<uint8_t>(static_cast<std::size_t>(width * image.height * 3))};
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* row = &image.rgb[static_cast<std::size_t>(y * image.width * 3)];
    uint8_t* to = &out.rgb[static_cast<std::size_t>(y * width * 3)];
    for (const Taps& tap : taps) {
      apply(tap, row, 3, to);
      to += 3;
    }
  }
  return out;
}

Image resize_columns(const Image& image, int64_t height) {
  const std::vector<Taps> taps = make_taps(image.height, height);
  const auto stride = static_cast<std::size_t>(image.width * 3);
  Image out{image.width, height, std::vector<uint8_t>(static_cast<std::size_t>(height) * stride)};
  uint8_t* to = out.rgb.data();
  for (const Taps& tap : taps) {
    for (std::size_t x = 0; x < stride; x += 3) {
      apply(tap, &image.rgb[x], stride, to);
      to += 3;
    }
  }
  return out;
}

}  // namespace

Image resize_lanczos(const Image& image, FrameSize to) {
  invariant(image.width > 0 && image.height > 0 && to.width > 0 && to.height > 0,
            "an image has at least one pixel");
  invariant(static_cast<int64_t>(image.rgb.size()) == image.width * image.height * 3,
            "an image has width * height * 3 bytes");
  Image out = to.width == image.width ? image : resize_rows(image, to.width);
  return to.height == image.height ? out : resize_columns(out, to.height);
}

}  // namespace fastwan::io
