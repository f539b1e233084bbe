// y = x weight^T + bias, as torch's. On a GPU in grad mode the gradient of the bias is summed over
// the rows in two steps: torch's one step leaves most of a GPU idle where rows are many and
// channels few. A function for models, not an operator of the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// x [..., in], weight [out, in], bias [out] or undefined -> [..., out]
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// The sum over rows of x [N, C] -> [C], in the type of x; partial sums and their sum in float32,
// or float64 where x is.
at::Tensor sum_of_rows(const at::Tensor& x);

}  // namespace fastwan::ops
