// The coloured object in each frame of a clip over grey.
//
// Dims  F frames, P height, Q width in pixels
#pragma once

#include <cstdint>
#include <vector>

#include "data/shapes.h"

namespace fastwan::eval {

// Frames [F, 3, P, Q] fp32 in host memory, not owned.
struct FrameView {
  const float* values = nullptr;
  data::shapes::Format format;

  int64_t num_pixels() const { return format.height * format.width; }
  float at(int64_t frame, int64_t channel, int64_t pixel) const {
    return values[(frame * 3 + channel) * num_pixels() + pixel];
  }
};

struct Object {
  bool is_found = false;
  std::vector<float> coverage;  // [P, Q], 0 outside the largest component widened by one pixel
  double area = 0;              // sum of coverage
  data::shapes::Point centroid;
  data::shapes::Rgb colour;     // mean over the component
  data::shapes::Rgb inner;      // mean over its pixels of full colour
  double fragment_share = 0;    // foreground outside the component / all foreground
  std::vector<int64_t> pixels;  // the component
};

// [0, 360); grey: 0.
double hue_degrees_of(const data::shapes::Rgb& colour);

// [P, Q], 1 where the channels differ by more than .25.
std::vector<uint8_t> foreground_of(const FrameView& frames, int64_t frame);
Object find_object(const FrameView& frames, int64_t frame, const std::vector<uint8_t>& foreground);
// Widened by `radius` pixels in every direction (a square).
std::vector<uint8_t> widen(const std::vector<uint8_t>& mask,
                           const data::shapes::Format& format,
                           int64_t radius);

}  // namespace fastwan::eval
