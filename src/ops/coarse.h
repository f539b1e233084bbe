// The products and the softmax between tile means, forward and backward: bits that depend on no
// number of threads. Torch's matrix products and the backward of its softmax promise no such thing.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// a [B, H, M, K], b [B, H, K, N] -> [B, H, M, N]; sums in float32 (float64 for float64), rounded
// once.
at::Tensor ordered_matmul(const at::Tensor& a, const at::Tensor& b);

// softmax over the last dimension of x [B, H, M, N].
at::Tensor row_softmax(const at::Tensor& x);

}  // namespace fastwan::ops
