#include <array>
#include <cmath>

#include <ATen/ops/empty.h>

#include "models/wan_dit.h"

namespace fastwan::models {
namespace {

constexpr double kTheta = 10000.0;

}  // namespace

Rope make_rope(int64_t head_dim, int64_t T, int64_t H, int64_t W, at::Device device) {
  const int64_t side = 2 * (head_dim / 6);
  const std::array<int64_t, 3> widths = {head_dim - 2 * side, side, side};
  const at::Tensor angles = at::empty({T * H * W, 1, head_dim / 2}, at::kComplexFloat);
  auto* out = angles.mutable_data_ptr<c10::complex<float>>();
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t w = 0; w < W; ++w) {
        const std::array<int64_t, 3> position = {t, h, w};
        for (std::size_t axis = 0; axis < 3; ++axis) {
          for (int64_t pair = 0; pair < widths[axis] / 2; ++pair) {
            const double omega = std::pow(
                kTheta, -2.0 * static_cast<double>(pair) / static_cast<double>(widths[axis]));
            const double angle = static_cast<double>(position[axis]) * omega;
            *out++ = {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
          }
        }
      }
    }
  }
  return {angles.to(device)};
}

}  // namespace fastwan::models
