// Classifier-free guidance.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::diffusion {

// v = v_u + scale (v_c - v_u), each operation rounded to the velocities' type as the reference
// pipelines do; then, if rescale > 0, v = rescale v std(v_c)/std(v) + (1 - rescale) v, std per
// sample.
at::Tensor guided(const at::Tensor& conditional,
                  const at::Tensor& unconditional,
                  double scale,
                  double rescale);

}  // namespace fastwan::diffusion
