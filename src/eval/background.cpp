#include "eval/background.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

namespace fastwan::eval {
namespace {

using data::shapes::Background;
using data::shapes::Point;
using data::shapes::Scene;

constexpr double kPi = std::numbers::pi;
constexpr std::size_t kBins = 32;  // of one period: one pixel each at 96 x 96
constexpr double kCoarseStep = kPi / 60, kFineStep = kPi / 360;

struct Sample {
  Point at;
  double level = 0;  // the mean taken off
};

std::vector<Sample> samples_of(const StillPicture& picture) {
  std::vector<Sample> samples;
  double sum = 0;
  for (std::size_t pixel = 0; pixel < picture.levels.size(); ++pixel) {
    if (picture.is_known[pixel] == 0) {
      continue;
    }
    const auto place = static_cast<int64_t>(pixel);
    samples.push_back({{static_cast<double>(place % picture.format.width) + 0.5,
                        static_cast<double>(place / picture.format.width) + 0.5},
                       picture.levels[pixel]});
    sum += picture.levels[pixel];
  }
  for (Sample& sample : samples) {
    sample.level -= sum / static_cast<double>(samples.size());
  }
  return samples;
}

// Standard deviation of level - model.
double error_of(const StillPicture& picture,
                const std::vector<Sample>& samples,
                const Scene& model) {
  double sum = 0, squares = 0;
  for (const Sample& sample : samples) {
    const double left = sample.level - background_level(picture.format, model, sample.at);
    sum += left;
    squares += left * left;
  }
  const auto n = static_cast<double>(samples.size());
  return std::sqrt(std::max(0.0, squares / n - (sum / n) * (sum / n)));
}

double hard_wave(std::size_t bin) {
  return bin % kBins < kBins / 2 ? 1.0 : -1.0;
}

// The bin of a place on a line with a period of two cells.
std::size_t bin_of(double place, double period) {
  const double share = place / period - std::floor(place / period);
  return std::min(kBins - 1, static_cast<std::size_t>(share * kBins));
}

struct Match {
  double correlation = -1;
  double angle = 0;
  double phase = 0;
};

Match match_stripes(const std::vector<Sample>& samples, double angle, double period) {
  std::array<double, kBins> sums{};
  const double cos = std::cos(angle), sin = std::sin(angle);
  for (const Sample& sample : samples) {
    sums[bin_of(sample.at.x * cos - sample.at.y * sin, period)] += sample.level;
  }
  Match best;
  for (std::size_t shift = 0; shift < kBins; ++shift) {
    double correlation = 0;
    for (std::size_t bin = 0; bin < kBins; ++bin) {
      correlation += sums[bin] * hard_wave(bin + shift);
    }
    if (correlation > best.correlation) {
      best = {correlation, angle, static_cast<double>(shift) / kBins};
    }
  }
  return best;
}

Scene fit_stripes(const std::vector<Sample>& samples, double period) {
  Match best;
  const auto try_angle = [&](double angle) {
    const Match match = match_stripes(samples, angle, period);
    if (match.correlation > best.correlation) {
      best = match;
    }
  };
  for (double angle = 0; angle < kPi; angle += kCoarseStep) {
    try_angle(angle);
  }
  const double coarse = best.angle;
  for (int step = -5; step <= 5; ++step) {
    try_angle(coarse + step * kFineStep);
  }
  Scene scene;
  scene.attributes.background = Background::kStripes;
  scene.background_angle = best.angle;
  scene.background_phase.x = best.phase;
  return scene;
}

Scene fit_checker(const std::vector<Sample>& samples, double period) {
  std::array<std::array<double, kBins>, kBins> sums{};  // [y, x]
  for (const Sample& sample : samples) {
    sums[bin_of(sample.at.y, period)][bin_of(sample.at.x, period)] += sample.level;
  }
  Scene scene;
  scene.attributes.background = Background::kChecker;
  double best = -1;
  for (std::size_t shift_x = 0; shift_x < kBins; ++shift_x) {
    std::array<double, kBins> rows{};
    for (std::size_t y = 0; y < kBins; ++y) {
      for (std::size_t x = 0; x < kBins; ++x) {
        rows[y] += sums[y][x] * hard_wave(x + shift_x);
      }
    }
    for (std::size_t shift_y = 0; shift_y < kBins; ++shift_y) {
      double correlation = 0;
      for (std::size_t y = 0; y < kBins; ++y) {
        correlation += rows[y] * hard_wave(y + shift_y);
      }
      if (correlation > best) {
        best = correlation;
        scene.background_phase = {static_cast<double>(shift_x) / kBins,
                                  static_cast<double>(shift_y) / kBins};
      }
    }
  }
  return scene;
}

// The angle of the least-squares plane.
Scene fit_gradient(const std::vector<Sample>& samples) {
  double x = 0, y = 0;
  for (const Sample& sample : samples) {
    x += sample.at.x;
    y += sample.at.y;
  }
  const auto n = static_cast<double>(samples.size());
  const Point middle{x / n, y / n};
  double xx = 0, xy = 0, yy = 0, xv = 0, yv = 0;
  for (const Sample& sample : samples) {
    const double dx = sample.at.x - middle.x, dy = sample.at.y - middle.y;
    xx += dx * dx;
    xy += dx * dy;
    yy += dy * dy;
    xv += dx * sample.level;
    yv += dy * sample.level;
  }
  const double determinant = xx * yy - xy * xy;
  Scene scene;
  scene.attributes.background = Background::kGradient;
  if (determinant > 0) {
    scene.background_angle = std::atan2(-(xx * yv - xy * xv), yy * xv - xy * yv);
  }
  return scene;
}

}  // namespace

BackgroundFit fit_background(const StillPicture& picture) {
  const std::vector<Sample> samples = samples_of(picture);
  if (samples.empty()) {
    return {};
  }
  const double period = 2 * data::shapes::cell_px(picture.format);
  BackgroundFit best{.error = std::numeric_limits<double>::infinity()};
  for (const Scene& model : {Scene{}, fit_stripes(samples, period), fit_checker(samples, period),
                             fit_gradient(samples)}) {
    const double error = error_of(picture, samples, model);
    if (error < best.error) {
      const double around = angle_period(model.attributes.background);
      const double turns = std::floor(model.background_angle / around);
      best = {model.attributes.background, error, model.background_angle - around * turns};
    }
  }
  return best;
}

}  // namespace fastwan::eval
