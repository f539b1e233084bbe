// block_attention on the CPU: checks values, splits the kernel's work over torch's threads.
#pragma once

#include <tuple>

#include "ops/block_attention_plain.h"

namespace fastwan::ops {

// float32 and bfloat16; other types: the plain version.
std::tuple<at::Tensor, at::Tensor> cpu_block_attention(const AttentionOperands& x,
                                                       const BlockLists& lists,
                                                       double scale);

// Gradients of q, k and v. `grad_lse` may be undefined.
std::tuple<at::Tensor, at::Tensor, at::Tensor> cpu_block_attention_backward(
    const at::Tensor& grad_out,
    const at::Tensor& grad_lse,
    const AttentionOperands& x,
    const AttentionResult& result,
    const BlockLists& lists,
    double scale);

}  // namespace fastwan::ops
