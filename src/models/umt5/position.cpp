#include "models/umt5/position.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/log.h>
#include <ATen/ops/where.h>

namespace fastwan::models {

at::Tensor position_bucket(const at::Tensor& offset, const layout::Umt5Config& config) {
  const int64_t per_sign = config.num_buckets / 2;
  const int64_t exact = per_sign / 2;  // distances with a bucket of their own
  const at::Tensor distance = offset.abs();
  // In fp32, as the model was trained: the borders depend on the rounding. Distance 0 has no
  // logarithm and is small anyway.
  const double range =
      std::log(static_cast<double>(config.max_distance) / static_cast<double>(exact));
  const at::Tensor ratio =
      at::log(distance.clamp_min(1).to(at::kFloat) / exact) / range * (per_sign - exact);
  const at::Tensor large = (exact + ratio.to(at::kLong)).clamp_max(per_sign - 1);
  return offset.gt(0).to(at::kLong) * per_sign + at::where(distance < exact, distance, large);
}

at::Tensor position_buckets(int64_t L, const layout::Umt5Config& config, at::Device device) {
  const at::Tensor position = at::arange(L, at::TensorOptions(at::kLong).device(device));
  return position_bucket(position.unsqueeze(0) - position.unsqueeze(1), config);  // [L, L]
}

}  // namespace fastwan::models
