// The straight path between content and noise: x = (1 - sigma) x0 + sigma noise, and the velocity
// along it, v = noise - x0.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::diffusion {

// x0 = x - sigma v, in fp64 and left there: the caller rounds, once.
at::Tensor predict_x0(const at::Tensor& x, const at::Tensor& velocity, double sigma);

// x = (1 - sigma) x0 + sigma noise, in fp32 and left there; 1 - sigma is an fp32 number too.
at::Tensor add_noise(const at::Tensor& x0, const at::Tensor& noise, double sigma);

}  // namespace fastwan::diffusion
