#include "eval/attributes.h"

#include <algorithm>
#include <cmath>

namespace fastwan::eval {

using data::shapes::Background;
using data::shapes::Format;
using data::shapes::Point;
using data::shapes::Shape;

void AttributeScore::add(const data::shapes::Attributes& wanted, const Detection& found) {
  constexpr std::size_t kBackground = data::shapes::kNumAttributes - 1;
  const auto want = labels_of(wanted);
  const auto got = labels_of(found.attributes);
  bool all = true;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool is_correct = want[i] == got[i] && (found.is_found || i == kBackground);
    correct_[i] += is_correct ? 1 : 0;
    all = all && is_correct;
  }
  all_correct_ += all ? 1 : 0;
  ++count_;
}

std::vector<Point> normalised_starts(const Format& format,
                                     const std::vector<NuisanceSample>& samples) {
  std::vector<Point> starts;
  for (const NuisanceSample& sample : samples) {
    if (sample.found.is_found) {
      const auto rectangle = start_rectangle(format, sample.wanted);
      starts.push_back(
          {(sample.found.start.x - rectangle.low.x) / (rectangle.high.x - rectangle.low.x),
           (sample.found.start.y - rectangle.low.y) / (rectangle.high.y - rectangle.low.y)});
    }
  }
  return starts;
}

ChiSquared test_starts(const Format& format, const std::vector<NuisanceSample>& samples) {
  constexpr int64_t kSide = 4;
  std::vector<int64_t> counts(kSide * kSide);
  const auto cell = [](double share) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::floor(share * kSide)), 0, kSide - 1);
  };
  for (const Point& start : normalised_starts(format, samples)) {
    ++counts[static_cast<std::size_t>(kSide * cell(start.y) + cell(start.x))];
  }
  return test_uniform(counts);
}

ChiSquared test_rotations(const std::vector<NuisanceSample>& samples) {
  constexpr int64_t kBins = 12;
  std::vector<double> shares;
  for (const NuisanceSample& sample : samples) {
    const Shape shape = sample.found.attributes.shape;
    if (sample.found.is_found && shape != Shape::kCircle) {
      shares.push_back(sample.found.rotation / symmetry_period(shape));
    }
  }
  return test_uniform(histogram(shares, kBins));
}

ChiSquared test_angles(const std::vector<NuisanceSample>& samples) {
  constexpr int64_t kBins = 12;
  // The angles of stripes lie on a grid that meets the bins' edges, which rounding must not blur.
  constexpr double kOffEdge = 1e-9;
  std::vector<double> shares;
  for (const NuisanceSample& sample : samples) {
    const Background background = sample.found.attributes.background;
    if (background == Background::kStripes || background == Background::kGradient) {
      const double share = sample.found.background_angle / angle_period(background) + kOffEdge;
      shares.push_back(share - std::floor(share));
    }
  }
  return test_uniform(histogram(shares, kBins));
}

double position_spread(const Format& format,
                       const std::vector<std::vector<NuisanceSample>>& prompts) {
  std::vector<double> ratios;
  for (const std::vector<NuisanceSample>& samples : prompts) {
    std::vector<double> x, y;
    for (const Point& start : normalised_starts(format, samples)) {
      x.push_back(start.x);
      y.push_back(start.y);
    }
    if (x.size() >= 2) {
      ratios.push_back((mean_and_std(x).std + mean_and_std(y).std) / 2 * std::sqrt(12.0));
    }
  }
  return mean_and_std(ratios).mean;
}

}  // namespace fastwan::eval
