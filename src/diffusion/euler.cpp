#include <ATen/TensorOperators.h>

#include "base/check.h"
#include "diffusion/samplers.h"

namespace fastwan::diffusion {

at::Tensor sample_euler(const at::Tensor& noise,
                        const std::vector<NoiseLevel>& levels,
                        const Denoiser& velocity,
                        const OnStep& on_step,
                        const Impose& impose) {
  invariant(!levels.empty(), "a sampler has at least one level");
  const auto imposed = [&](const at::Tensor& x) { return impose ? impose(x) : x; };
  const auto total = static_cast<int64_t>(levels.size());
  at::Tensor x = noise;
  for (int64_t i = 0; i < total; ++i) {
    const NoiseLevel& level = levels[static_cast<std::size_t>(i)];
    const auto sigma = static_cast<float>(level.sigma);
    const float next_sigma =
        i + 1 < total ? static_cast<float>(levels[static_cast<std::size_t>(i + 1)].sigma) : 0.0F;
    const at::Tensor v = velocity(imposed(x), level, i);
    if (on_step) {
      on_step(i + 1, total, imposed(x - v * sigma));
    }
    // The reference hands its state back in the model's type.
    x = (x + v * (next_sigma - sigma)).to(v.scalar_type()).to(at::kFloat);
  }
  return imposed(x);
}

}  // namespace fastwan::diffusion
