// Relative positions of UMT5: the bucket of each distance between a key and a query.
#pragma once

#include <ATen/core/Tensor.h>

#include "models/layout/configs.h"

namespace fastwan::models {

// offset: key minus query, int64 of any shape -> bucket in [0, num_buckets), int64. Half of the
// buckets are for each sign; small distances have one each, larger ones share them by the logarithm
// up to max_distance.
at::Tensor position_bucket(const at::Tensor& offset, const layout::Umt5Config& config);

// Buckets of all pairs: [L, L], query by key.
at::Tensor position_buckets(int64_t L, const layout::Umt5Config& config, at::Device device);

}  // namespace fastwan::models
