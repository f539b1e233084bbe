// gelu in its tanh form (kernels/gelu/gelu.h): one pass over memory each way on the CPU in float32,
// torch's operator elsewhere. Both with a gradient. A function for models, not an operator of the
// library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// x is used up where gradients are off.
at::Tensor tanh_gelu(const at::Tensor& x);

}  // namespace fastwan::ops
