// fp32 to bf16, up or down at random, so that the mean is kept: what lets a bf16 moment take in
// increments below its resolution.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "base/rng.h"

namespace fastwan::training {

// Which numbers are drawn: those of base/rng.h with this key and counter.
struct RandomBits {
  uint64_t seed = 0;
  Stream stream = Stream::kStochasticRound;
  int64_t step = 0, slot = 0, draw = 0;
};

// The words of elements first .. first + count - 1, [count] int64 in 0 .. 2^32 - 1: word e % 4 of
// philox4x32 with counter (e / 4, slot, step, stream | draw << 16). Made of integer operators: any
// device, the same bits.
at::Tensor random_words(const RandomBits& bits, int64_t first, int64_t count, at::Device device);

// x [n] fp32, element i being element first + i of its stream -> [n] bf16, one of the two
// neighbours, the upper with probability (x - lower) / (upper - lower) in steps of 2^-16. What is
// not finite stays as it is.
at::Tensor stochastic_round(const at::Tensor& x, const RandomBits& bits, int64_t first);

}  // namespace fastwan::training
