#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/polar.h>
#include <ATen/ops/pow.h>

#include "models/wan_dit.h"

namespace fastwan::models {
namespace {

constexpr double kTheta = 10000.0;

// cos + i sin of each position of one axis: [num_positions, width / 2] complex128.
at::Tensor axis_rotation(int64_t num_positions, int64_t width) {
  const at::Tensor exponent = at::arange(0, width, 2, at::kDouble) / static_cast<double>(width);
  const at::Tensor angle =
      at::outer(at::arange(num_positions, at::kDouble), 1.0 / at::pow(kTheta, exponent));
  return at::polar(at::ones_like(angle), angle);
}

}  // namespace

Rope make_rope(const RopeArgs& args, at::ScalarType type, at::Device device) {
  const auto& [head_dim, T, H, W] = args;
  const int64_t side = 2 * (head_dim / 6);
  const auto spread = [&](const at::Tensor& axis, at::IntArrayRef shape) {
    return axis.view(shape).expand({T, H, W, axis.size(1)});
  };
  const at::Tensor rotation = at::cat({spread(axis_rotation(T, head_dim - 2 * side), {T, 1, 1, -1}),
                                       spread(axis_rotation(H, side), {1, H, 1, -1}),
                                       spread(axis_rotation(W, side), {1, 1, W, -1})},
                                      -1);  // [T, H, W, d/2]
  return {rotation.view({T * H * W, 1, head_dim / 2}).to(device, at::toComplexType(type))};
}

}  // namespace fastwan::models
