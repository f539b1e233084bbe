#include "diffusion/flow.h"

#include <ATen/TensorOperators.h>

namespace fastwan::diffusion {

at::Tensor predict_x0(const at::Tensor& x, const at::Tensor& velocity, double sigma) {
  return x.to(at::kDouble) - velocity.to(at::kDouble) * sigma;
}

at::Tensor add_noise(const at::Tensor& x0, const at::Tensor& noise, double sigma) {
  const auto share = static_cast<float>(sigma);
  return x0.to(at::kFloat) * (1.0F - share) + noise.to(at::kFloat) * share;
}

}  // namespace fastwan::diffusion
