#include "eval/foreground.h"

#include <algorithm>
#include <cmath>

namespace fastwan::eval {
namespace {

constexpr float kSmallestChroma = 0.25F;  // a saturated object has .81, a grey background none
constexpr double kFullShare = 0.75;       // quantile of the component's chroma that counts as full
constexpr float kInnerShare = 0.9F;       // of the full chroma: a pixel without background in it

float chroma(const FrameView& frames, int64_t frame, int64_t pixel) {
  const float r = frames.at(frame, 0, pixel);
  const float g = frames.at(frame, 1, pixel);
  const float b = frames.at(frame, 2, pixel);
  return std::max({r, g, b}) - std::min({r, g, b});
}

template <class Visit>
void for_neighbours(const data::shapes::Format& format, int64_t pixel, const Visit& visit) {
  const int64_t row = pixel / format.width, column = pixel % format.width;
  for (int64_t y = std::max<int64_t>(0, row - 1); y <= std::min(format.height - 1, row + 1); ++y) {
    for (int64_t x = std::max<int64_t>(0, column - 1); x <= std::min(format.width - 1, column + 1);
         ++x) {
      visit(y * format.width + x);
    }
  }
}

// The pixels of the largest 8-connected component.
std::vector<int64_t> largest_component(const std::vector<uint8_t>& mask,
                                       const data::shapes::Format& format) {
  std::vector<uint8_t> open = mask;
  std::vector<int64_t> largest;
  for (std::size_t first = 0; first < open.size(); ++first) {
    if (open[first] == 0) {
      continue;
    }
    std::vector<int64_t> component = {static_cast<int64_t>(first)};
    open[first] = 0;
    for (std::size_t i = 0; i < component.size(); ++i) {
      for_neighbours(format, component[i], [&](int64_t next) {
        if (open[static_cast<std::size_t>(next)] != 0) {
          open[static_cast<std::size_t>(next)] = 0;
          component.push_back(next);
        }
      });
    }
    if (component.size() > largest.size()) {
      largest = std::move(component);
    }
  }
  return largest;
}

data::shapes::Rgb mean_colour(const FrameView& frames,
                              int64_t frame,
                              const std::vector<int64_t>& pixels) {
  data::shapes::Rgb sum;
  for (const int64_t pixel : pixels) {
    sum.red += frames.at(frame, 0, pixel);
    sum.green += frames.at(frame, 1, pixel);
    sum.blue += frames.at(frame, 2, pixel);
  }
  const double n = std::max<double>(1, static_cast<double>(pixels.size()));
  return {sum.red / n, sum.green / n, sum.blue / n};
}

}  // namespace

double hue_degrees_of(const data::shapes::Rgb& c) {
  const double high = std::max({c.red, c.green, c.blue});
  const double chroma = high - std::min({c.red, c.green, c.blue});
  if (chroma <= 0) {
    return 0;
  }
  const double sector = high == c.red     ? (c.green - c.blue) / chroma
                        : high == c.green ? 2 + (c.blue - c.red) / chroma
                                          : 4 + (c.red - c.green) / chroma;
  return sector < 0 ? 60 * sector + 360 : 60 * sector;
}

std::vector<uint8_t> foreground_of(const FrameView& frames, int64_t frame) {
  std::vector<uint8_t> mask(static_cast<std::size_t>(frames.num_pixels()));
  for (std::size_t pixel = 0; pixel < mask.size(); ++pixel) {
    mask[pixel] = chroma(frames, frame, static_cast<int64_t>(pixel)) > kSmallestChroma ? 1 : 0;
  }
  return mask;
}

Object find_object(const FrameView& frames, int64_t frame, const std::vector<uint8_t>& foreground) {
  const data::shapes::Format& format = frames.format;
  std::vector<int64_t> component = largest_component(foreground, format);
  Object object;
  if (component.empty()) {
    return object;
  }
  object.is_found = true;
  std::vector<float> sorted;
  for (const int64_t pixel : component) {
    sorted.push_back(chroma(frames, frame, pixel));
  }
  const auto full_at =
      static_cast<std::ptrdiff_t>(kFullShare * static_cast<double>(sorted.size() - 1));
  std::nth_element(sorted.begin(), sorted.begin() + full_at, sorted.end());
  const float full = sorted[static_cast<std::size_t>(full_at)];

  object.coverage.assign(static_cast<std::size_t>(frames.num_pixels()), 0.0F);
  std::vector<int64_t> inner;
  for (const int64_t pixel : component) {
    for_neighbours(format, pixel, [&](int64_t near) {
      object.coverage[static_cast<std::size_t>(near)] =
          std::min(1.0F, chroma(frames, frame, near) / full);
    });
    if (chroma(frames, frame, pixel) >= kInnerShare * full) {
      inner.push_back(pixel);
    }
  }
  for (std::size_t pixel = 0; pixel < object.coverage.size(); ++pixel) {
    const double weight = object.coverage[pixel];
    const auto place = static_cast<int64_t>(pixel);
    object.area += weight;
    object.centroid.x += weight * (static_cast<double>(place % format.width) + 0.5);
    object.centroid.y += weight * (static_cast<double>(place / format.width) + 0.5);
  }
  object.centroid.x /= object.area;
  object.centroid.y /= object.area;
  object.colour = mean_colour(frames, frame, component);
  object.inner = mean_colour(frames, frame, inner);
  const auto all = std::count(foreground.begin(), foreground.end(), 1);
  object.fragment_share = 1 - static_cast<double>(component.size()) / static_cast<double>(all);
  object.pixels = std::move(component);
  return object;
}

std::vector<uint8_t> widen(const std::vector<uint8_t>& mask,
                           const data::shapes::Format& format,
                           int64_t radius) {
  std::vector<uint8_t> wide = mask;
  for (int64_t step = 0; step < radius; ++step) {
    const std::vector<uint8_t> before = wide;
    for (std::size_t pixel = 0; pixel < before.size(); ++pixel) {
      if (before[pixel] != 0) {
        for_neighbours(format, static_cast<int64_t>(pixel),
                       [&](int64_t near) { wide[static_cast<std::size_t>(near)] = 1; });
      }
    }
  }
  return wide;
}

}  // namespace fastwan::eval
