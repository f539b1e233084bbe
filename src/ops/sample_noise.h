// Gaussian numbers of many samples' streams (kernels/sample_noise/sample_noise.h), on CUDA where
// libfastwan_ops_cuda.so has been opened. A function for diffusion/sample_noise.h, not an operator
// of the library.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

struct SampleNoiseKey {
  uint64_t seed = 0;
  int64_t step = 0, tag = 0;  // modulo 2^32
};

bool has_sample_noise(const at::Tensor& slots);
// slots [B] int64 -> [B, count] float32 on their device
at::Tensor sample_noise(const at::Tensor& slots, int64_t count, const SampleNoiseKey& key);

}  // namespace fastwan::ops
