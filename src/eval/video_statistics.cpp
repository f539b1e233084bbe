#include "eval/video_statistics.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "base/check.h"
#include "base/shape.h"

namespace fastwan::eval {
namespace {

// A whole video may come at once, beside networks that fill the memory: differences and sums in
// fp64 of so many frames are a few times their size.
constexpr int64_t kFramesAtOnce = 4;

// Of each frame, all added up.
double sum_of_means(const at::Tensor& x) {
  return x.to(at::kDouble).flatten(1).mean(1).sum().item<double>();
}

}  // namespace

void VideoStatistics::add(const at::Tensor& frames) {
  Shapes shapes("VideoStatistics");
  if (last_.defined()) {
    shapes.expect("the last frames", last_.sizes(), "L 3 P Q");
  }
  shapes.expect("frames", frames.sizes(), "F 3 P Q");
  for (const at::Tensor& few : frames.split(kFramesAtOnce)) {
    add_few(few.to(at::kFloat));
  }
}

void VideoStatistics::add_few(const at::Tensor& x) {
  clipped_ += sum_of_means(x.le(1.0 / 255).logical_or(x.ge(254.0 / 255)));
  saturation_ += sum_of_means(x.amax(1) - x.amin(1));
  const at::Tensor luma =
      (0.2126 * x.select(1, 0) + 0.7152 * x.select(1, 1) + 0.0722 * x.select(1, 2))
          .to(at::kDouble)
          .flatten(1);  // [f, P*Q]
  contrast_ += luma.var(1, /*unbiased=*/false).sqrt().sum().item<double>();

  const at::Tensor all = last_.defined() ? at::cat({last_, x}) : x;  // [l + f, 3, P, Q]
  const int64_t N = all.size(0);
  const int64_t num_known = N - x.size(0);
  // Pairs and triples whose last frame is new.
  const at::Tensor step = all.slice(0, 1, N) - all.slice(0, 0, N - 1);  // [N-1, 3, P, Q]
  difference_ += sum_of_means(step.slice(0, std::max<int64_t>(0, num_known - 1)).abs());
  if (N > 2) {
    flicker_ += sum_of_means((step.slice(0, 1) - step.slice(0, 0, N - 2)).abs());
  }
  num_frames_ += x.size(0);
  last_ = all.slice(0, std::max<int64_t>(0, N - 2)).clone();
}

std::map<std::string, double> VideoStatistics::values() const {
  if (num_frames_ == 0) {
    return {};
  }
  const auto F = static_cast<double>(num_frames_);
  std::map<std::string, double> values{
      {"clipped", clipped_ / F}, {"contrast", contrast_ / F}, {"saturation", saturation_ / F}};
  if (num_frames_ > 1) {
    values["frame_difference"] = difference_ / (F - 1);
  }
  if (num_frames_ > 2) {
    values["flicker"] = flicker_ / (F - 2);
  }
  return values;
}

}  // namespace fastwan::eval
