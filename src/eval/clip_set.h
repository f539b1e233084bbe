// One set of procedural clips, judged: attribute accuracy, steadiness, and the detections that
// other measures are made of.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "base/json.h"
#include "eval/attributes.h"

namespace fastwan::eval {

// Means over the clips in which an object was found.
struct Steadiness {
  double saturation = 0;
  double flicker = 0;
  double fragment_share = 0;
  double centroid_residual_px = 0;
  double area_variation = 0;
  double colour_variation = 0;
  double first_frame_hue_error = 0;
};

class ClipSet {
 public:
  // frames [F, 3, P, Q] in [0, 1] of a prompt that asked for `wanted`.
  void add(const at::Tensor& frames, const data::shapes::Attributes& wanted);
  // frames [n, F, 3, P, Q]; the same, on all threads.
  void add_all(const at::Tensor& frames, const std::vector<data::shapes::Attributes>& wanted);

  const AttributeScore& score() const { return score_; }
  const std::vector<NuisanceSample>& samples() const { return samples_; }
  Steadiness steadiness() const;
  // {"clips", "found", "attributes": {name: {"value", "low", "high"}}, "all_correct", "steadiness"}
  Json to_json() const;

 private:
  void add(NuisanceSample sample);

  AttributeScore score_;
  std::vector<NuisanceSample> samples_;
};

Json to_json(const Estimate& estimate);

}  // namespace fastwan::eval
