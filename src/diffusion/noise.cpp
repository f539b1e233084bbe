#include "diffusion/noise.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include "base/rng.h"

namespace fastwan::diffusion {
namespace {

class PhiloxNoise final : public NoiseSource {
 public:
  PhiloxNoise(int64_t seed, NoiseShape shape) : seed_(static_cast<uint64_t>(seed)), shape_(shape) {}

  at::Tensor initial() override { return draw(Stream::kInitial, 0); }
  at::Tensor renoise(int64_t step) override { return draw(Stream::kRenoise, step); }

 private:
  at::Tensor draw(Stream stream, int64_t step) const {
    const Philox philox(seed_, stream, step, /*slot=*/0);
    at::Tensor out = at::empty({1, shape_.channels, shape_.frames, shape_.height, shape_.width},
                               at::kFloat);  // [1, C, T, H, W]
    philox.fill_normal(/*first_element=*/0,
                       {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
    return out;
  }

  uint64_t seed_;
  NoiseShape shape_;
};

class TorchNoise final : public NoiseSource {
 public:
  TorchNoise(int64_t seed, NoiseShape shape, DrawOrder order, at::ScalarType renoise_type)
      : generator_(at::detail::createCPUGenerator(static_cast<uint64_t>(seed))),
        shape_(shape),
        order_(order),
        renoise_type_(renoise_type) {}

  at::Tensor initial() override { return draw(at::kFloat); }
  at::Tensor renoise(int64_t /*step*/) override { return draw(renoise_type_); }

 private:
  at::Tensor draw(at::ScalarType type) {
    const auto& [C, T, H, W] = shape_;
    if (order_ == DrawOrder::kChannelsFirst) {
      return at::randn({1, C, T, H, W}, generator_, type).to(at::kFloat);
    }
    const at::Tensor drawn = at::randn({1, T, C, H, W}, generator_, type);
    return drawn.to(at::kFloat).transpose(1, 2).contiguous();  // [1, C, T, H, W]
  }

  at::Generator generator_;
  NoiseShape shape_;
  DrawOrder order_;
  at::ScalarType renoise_type_;
};

}  // namespace

std::unique_ptr<NoiseSource> philox_noise(int64_t seed, NoiseShape shape) {
  return std::make_unique<PhiloxNoise>(seed, shape);
}

std::unique_ptr<NoiseSource> torch_noise(int64_t seed,
                                         NoiseShape shape,
                                         DrawOrder order,
                                         at::ScalarType renoise_type) {
  return std::make_unique<TorchNoise>(seed, shape, order, renoise_type);
}

}  // namespace fastwan::diffusion
