// Noise for the samples of a batch, each from its own slot's stream.
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "base/rng.h"

namespace fastwan::diffusion {

struct NoiseKey {
  uint64_t seed = 0;
  Stream stream = Stream::kFlowNoise;
  int64_t step = 0;
  int64_t draw = 0;
};

// Unit Gaussian numbers like `like` [B, ...], sample i from the stream of slots[i], elements in the
// order of its dense form. Values are fp32 (also where `like` is wider). On a GPU the words are
// made there: the same integers; logarithm, sine and cosine may differ in the last place of fp64,
// so that a number in ten million differs in the last place of fp32.
at::Tensor noise_like(const at::Tensor& like, const NoiseKey& key, std::span<const int64_t> slots);

// What a GPU does, on any device: for tests.
at::Tensor noise_by_tensor_operations(const at::Tensor& like,
                                      const NoiseKey& key,
                                      std::span<const int64_t> slots);

}  // namespace fastwan::diffusion
