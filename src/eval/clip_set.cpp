#include "eval/clip_set.h"

#include <ATen/Parallel.h>

#include "base/check.h"

namespace fastwan::eval {

void ClipSet::add(NuisanceSample sample) {
  score_.add(sample.wanted, sample.found);
  samples_.push_back(std::move(sample));
}

void ClipSet::add(const at::Tensor& frames, const data::shapes::Attributes& wanted) {
  add(NuisanceSample{wanted, detect(frames)});
}

void ClipSet::add_all(const at::Tensor& frames,
                      const std::vector<data::shapes::Attributes>& wanted) {
  const auto n = static_cast<int64_t>(wanted.size());
  invariant(frames.dim() == 5 && frames.size(0) == n, "one wanted code a clip");
  std::vector<Detection> found(wanted.size());
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      found[static_cast<std::size_t>(i)] = detect(frames[i]);
    }
  });
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    add(NuisanceSample{wanted[i], found[i]});
  }
}

Steadiness ClipSet::steadiness() const {
  Steadiness sum;
  double n = 0;
  for (const NuisanceSample& sample : samples_) {
    const Detection& found = sample.found;
    if (!found.is_found) {
      continue;
    }
    sum.saturation += found.saturation;
    sum.flicker += found.flicker;
    sum.fragment_share += found.fragment_share;
    sum.centroid_residual_px += found.centroid_residual_px;
    sum.area_variation += found.area_variation;
    sum.colour_variation += found.colour_variation;
    sum.first_frame_hue_error += found.first_frame_hue_error;
    ++n;
  }
  if (n > 0) {
    for (double* value :
         {&sum.saturation, &sum.flicker, &sum.fragment_share, &sum.centroid_residual_px,
          &sum.area_variation, &sum.colour_variation, &sum.first_frame_hue_error}) {
      *value /= n;
    }
  }
  return sum;
}

Json to_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}};
}

Json ClipSet::to_json() const {
  int64_t found = 0;
  for (const NuisanceSample& sample : samples_) {
    found += sample.found.is_found ? 1 : 0;
  }
  Json attributes = Json::object();
  for (std::size_t i = 0; i < data::shapes::kNumAttributes; ++i) {
    attributes[data::shapes::kAttributeNames[i]] = eval::to_json(score_.of(i));
  }
  const Steadiness steady = steadiness();
  return {{"clips", score_.count()},
          {"found", found},
          {"attributes", attributes},
          {"all_correct", eval::to_json(score_.all_correct())},
          {"steadiness",
           {{"saturation", steady.saturation},
            {"flicker", steady.flicker},
            {"fragment_share", steady.fragment_share},
            {"centroid_residual_px", steady.centroid_residual_px},
            {"area_variation", steady.area_variation},
            {"colour_variation", steady.colour_variation},
            {"first_frame_hue_error", steady.first_frame_hue_error}}}};
}

}  // namespace fastwan::eval
