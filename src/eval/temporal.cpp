#include "eval/temporal.h"

#include <ATen/ops/logical_or.h>

#include "base/check.h"
#include "base/shape.h"

namespace fastwan::eval {
namespace {

at::Tensor second_difference(const at::Tensor& frames) {
  const int64_t F = frames.size(0);
  return frames.slice(0, 2, F) - 2 * frames.slice(0, 1, F - 1) +
         frames.slice(0, 0, F - 2);  // [F-2, 3, P, Q]
}

}  // namespace

double flicker(const at::Tensor& frames) {
  Shapes shapes("flicker");
  shapes.expect("frames", frames.sizes(), "F 3 P Q");
  if (shapes["F"] < 3) {
    throw InvalidInput(Code::kBadTensor, "flicker needs 3 frames or more");
  }
  double sum = 0;  // of three frames at a time: a whole video's differences are as large as it is
  for (int64_t last = 3; last <= shapes["F"]; ++last) {
    sum += second_difference(frames.slice(0, last - 3, last)).abs().mean().item<double>();
  }
  return sum / static_cast<double>(shapes["F"] - 2);
}

double still_flicker(const at::Tensor& frames, const at::Tensor& moving) {
  Shapes shapes("flicker");
  shapes.expect("frames", frames.sizes(), "F 3 P Q");
  shapes.expect("moving", moving.sizes(), "F P Q");
  const int64_t F = shapes["F"];
  if (F < 3) {
    return 0;
  }
  const at::Tensor moves = moving.slice(0, 2, F)
                               .logical_or(moving.slice(0, 1, F - 1))
                               .logical_or(moving.slice(0, 0, F - 2));  // [F-2, P, Q]
  const at::Tensor still = moves.logical_not();
  const int64_t count = still.sum().item<int64_t>();
  if (count == 0) {
    return 0;
  }
  const at::Tensor change = second_difference(frames).abs().mean({1});  // [F-2, P, Q]
  return (change * still).sum().item<double>() / static_cast<double>(count);
}

}  // namespace fastwan::eval
