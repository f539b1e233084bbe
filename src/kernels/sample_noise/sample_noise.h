// sample_noise: unit Gaussian numbers of base/rng.h's Philox, which is their reference, for many
// samples at once.
//
//   words[b, g]        = Philox4x32-10 of counter (g, slot[b], step, tag) under the key `seed`
//   u(w)               = (w >> 8 + 1/2) / 2^24
//   out[b, 4g + 2p]     = sqrt(-2 ln u(words[2p])) cos(2 pi u(words[2p + 1])), p = 0, 1
//   out[b, 4g + 2p + 1] = the same with sin
//
// Dims     B samples of `count` numbers; slot, step and tag count modulo 2^32
// Layout   out [B, count] dense, slots [B]
// Types    computed in float64, rounded once to float32
// Cost     about 60 operations in float64 for two numbers: bound by them
#pragma once

#include <cstdint>

namespace fastwan::kernels {

struct SampleNoiseArgs {
  const int64_t* slots;
  float* out;
  int64_t B, count;
  uint64_t seed;
  uint32_t step, tag;
};

namespace cuda {
// On a stream; pointers to device memory.
void sample_noise(const SampleNoiseArgs& args, void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
