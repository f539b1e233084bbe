#include "diffusion/guidance.h"

#include <numeric>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/std.h>

namespace fastwan::diffusion {
namespace {

at::Tensor std_per_sample(const at::Tensor& v) {
  std::vector<int64_t> dims(static_cast<std::size_t>(v.dim() - 1));
  std::iota(dims.begin(), dims.end(), 1);
  return at::std(v, dims, /*unbiased=*/true, /*keepdim=*/true);  // [B, 1, 1, 1, 1]
}

}  // namespace

at::Tensor guided(const at::Tensor& conditional,
                  const at::Tensor& unconditional,
                  double scale,
                  double rescale) {
  at::Tensor v = unconditional + (conditional - unconditional) * scale;
  if (rescale > 0.0) {
    const at::Tensor same_spread = v * (std_per_sample(conditional) / std_per_sample(v));
    v = same_spread * rescale + v * (1.0 - rescale);
  }
  return v;
}

}  // namespace fastwan::diffusion
