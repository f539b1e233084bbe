// Starting and re-noise latents of a request.
#pragma once

#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

namespace fastwan::diffusion {

// The noise of one video. Calls come in order: initial(), then renoise(1), renoise(2), ...
class NoiseSource {
 public:
  NoiseSource() = default;
  NoiseSource(const NoiseSource&) = delete;
  NoiseSource& operator=(const NoiseSource&) = delete;
  virtual ~NoiseSource() = default;
  // fp32 on the CPU, [1, C, T, H, W].
  virtual at::Tensor initial() = 0;
  // fp32 values on the CPU (under torch's generator: drawn in the state's type, then widened).
  virtual at::Tensor renoise(int64_t step) = 0;
};

struct NoiseShape {
  int64_t channels = 0, frames = 0, height = 0, width = 0;
};

// Philox streams kInitial and kRenoise, slot 0: the same bits on any thread or rank count.
std::unique_ptr<NoiseSource> philox_noise(int64_t seed, NoiseShape shape);

enum class DrawOrder { kChannelsFirst, kFramesFirst };  // [B,C,T,H,W]; FastVideo's DMD: [B,T,C,H,W]
// torch's CPU generator as diffusers and FastVideo draw: initial in fp32, re-noise in
// `renoise_type`.
std::unique_ptr<NoiseSource> torch_noise(int64_t seed,
                                         NoiseShape shape,
                                         DrawOrder order,
                                         at::ScalarType renoise_type);

}  // namespace fastwan::diffusion
