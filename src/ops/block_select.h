// fastwan::block_select: which key tiles a query tile attends to. No gradient passes through it.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// The `topk` highest scores of each row: scores [B, H, Nq, Nk] -> [B, H, Nq, K] int32, ascending.
// Equal scores: the lower tile wins. A NaN counts as the highest.
at::Tensor block_select(const at::Tensor& scores, int64_t topk);

// For implementations of a device: shape and type, and the version made of torch's own operators.
void check_block_select(const at::Tensor& scores, int64_t topk);
at::Tensor plain_block_select(const at::Tensor& scores, int64_t topk);

}  // namespace fastwan::ops
