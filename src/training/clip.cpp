#include "training/clip.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

constexpr double kNormFloor = 1e-6;
// Elements widened to fp64 at once on the CPU: 32 MB.
constexpr int64_t kElementsAtOnce = int64_t{1} << 22;

// The first tensor with an element of this rank's slice that is not finite.
std::string first_non_finite(const Units& units) {
  for (int64_t i = 0; i < units.count(); ++i) {
    const at::Tensor slice = units.gradient(i);
    const int64_t begin = units.begin(i), end = begin + slice.size(0);
    for (const UnitTensor& tensor : units.layout()[static_cast<std::size_t>(i)].tensors) {
      const int64_t from = std::max(begin, tensor.offset);
      const int64_t to = std::min(end, tensor.offset + tensor.numel);
      if (from < to && !at::isfinite(slice.narrow(0, from - begin, to - from)).all().item<bool>()) {
        return tensor.name;
      }
    }
  }
  return "none of this rank's";
}

}  // namespace

double gradient_norm(const Units& units) {
  const c10::NoGradGuard no_grad;
  at::Tensor squares = at::zeros({}, at::TensorOptions(at::kDouble).device(units.options().device));
  for (int64_t i = 0; i < units.count(); ++i) {
    for (const at::Tensor& part : units.gradient(i).split(kElementsAtOnce)) {
      squares +=
          at::linalg_vector_norm(part, 2, at::OptionalIntArrayRef(), /*keepdim=*/false, at::kDouble)
              .square();
    }
  }
  // Every rank of `replicate` holds the same gradient: the sum runs over `shard` alone.
  units.mesh().shard->all_reduce_sum(squares);
  return std::sqrt(squares.item<double>());
}

Clipped clip_gradient(Units& units, double max_norm, const std::string& network) {
  const double norm = gradient_norm(units);
  if (!std::isfinite(norm)) {
    throw Failure(Code::kNonFinite,
                  str(network, ": the gradient is not finite, norm ", norm, "; first in ",
                      first_non_finite(units),
                      ". No weight was changed; resume from the last checkpoint, with a lower "
                      "learning rate if it happens again"));
  }
  const double coefficient = max_norm > 0 ? std::min(1.0, max_norm / (norm + kNormFloor)) : 1.0;
  if (coefficient < 1.0) {
    for (int64_t i = 0; i < units.count(); ++i) {
      units.gradient(i).mul_(coefficient);
    }
  }
  return {.norm = norm, .coefficient = coefficient};
}

}  // namespace fastwan::training
