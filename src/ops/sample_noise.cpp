#include "ops/sample_noise.h"

#include <bit>

#include "ops/gpu_operator.h"

namespace fastwan::ops {
namespace {

using Make = at::Tensor(const at::Tensor&, int64_t, int64_t, int64_t, int64_t);
constexpr const char* kName = "fastwan::_sample_noise";

}  // namespace

bool has_sample_noise(const at::Tensor& slots) {
  return slots.is_cuda() && gpu_operator<Make>(kName);
}

at::Tensor sample_noise(const at::Tensor& slots, int64_t count, const SampleNoiseKey& key) {
  static const auto make = gpu_operator<Make>(kName);
  return make->call(slots, count, std::bit_cast<int64_t>(key.seed), key.step, key.tag);
}

}  // namespace fastwan::ops
