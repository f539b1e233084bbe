#include <ATen/TensorOperators.h>

#include "base/check.h"
#include "diffusion/flow.h"
#include "diffusion/samplers.h"

namespace fastwan::diffusion {

at::Tensor sample_few_step(const at::Tensor& noise,
                           const std::vector<NoiseLevel>& levels,
                           const Denoiser& velocity,
                           const NoiseAt& noise_at,
                           const OnStep& on_step,
                           const FewStepOptions& options) {
  invariant(!levels.empty(), "a sampler has at least one level");
  const auto imposed = [&](const at::Tensor& x) { return options.impose ? options.impose(x) : x; };
  const auto settled = [&](const at::Tensor& x) {
    return imposed(x.to(options.state)).to(options.state);
  };
  const auto total = static_cast<int64_t>(levels.size());
  at::Tensor x = imposed(noise);  // not rounded: the reference keeps its first state in fp32
  at::Tensor x0;
  for (int64_t i = 0; i < total; ++i) {
    const NoiseLevel& level = levels[static_cast<std::size_t>(i)];
    if (i > 0) {
      x = settled(add_noise(x0, noise_at(i).to(x0.device()), level.sigma));
    }
    x0 = settled(predict_x0(x, velocity(x, level, i), level.sigma));
    if (on_step) {
      on_step(i + 1, total, x0);
    }
  }
  return x0;
}

}  // namespace fastwan::diffusion
