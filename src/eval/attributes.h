// What a set of clips says about its prompts: attribute accuracy, and the law of what prompts leave
// open.
#pragma once

#include <array>
#include <vector>

#include "eval/detector.h"
#include "eval/statistics.h"

namespace fastwan::eval {

// Correct detections of each attribute and of all six together. A clip without an object has all
// wrong but perhaps the background.
class AttributeScore {
 public:
  void add(const data::shapes::Attributes& wanted, const Detection& found);

  int64_t count() const { return count_; }
  // Shares with Wilson's interval.
  Estimate of(std::size_t attribute) const { return wilson(correct_[attribute], count_); }
  Estimate all_correct() const { return wilson(all_correct_, count_); }

 private:
  int64_t count_ = 0;
  int64_t all_correct_ = 0;
  std::array<int64_t, data::shapes::kNumAttributes> correct_{};
};

// A clip of a prompt of these attributes.
struct NuisanceSample {
  data::shapes::Attributes wanted;
  Detection found;
};

// Where the clip starts within the rectangle that the law allows, [0, 1] x [0, 1] up to rounding;
// clips without an object are left out.
std::vector<data::shapes::Point> normalised_starts(const data::shapes::Format& format,
                                                   const std::vector<NuisanceSample>& samples);
// Uniform on 4 x 4 cells?
ChiSquared test_starts(const data::shapes::Format& format,
                       const std::vector<NuisanceSample>& samples);
// Rotation within the detected shape's symmetry period, 12 bins; circles are left out.
ChiSquared test_rotations(const std::vector<NuisanceSample>& samples);
// Angle of the detected background within its period, 12 bins; only stripes and gradients have one.
ChiSquared test_angles(const std::vector<NuisanceSample>& samples);

// How much of the law's spread of positions a model keeps: for each prompt the standard deviation
// of the normalised starts (mean of x's and y's), divided by that of the uniform law, 1 / sqrt(12);
// mean over prompts with two samples or more. 1: all of it, 0: every clip starts at one place.
double position_spread(const data::shapes::Format& format,
                       const std::vector<std::vector<NuisanceSample>>& prompts);

}  // namespace fastwan::eval
