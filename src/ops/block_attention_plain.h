// The plain version of block_attention, of torch's own operators: any device, any type.
#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// The tensors that say who attends to whom.
struct BlockLists {
  const at::Tensor& index;     // [B, H, Nq, K] int32
  const at::Tensor& count;     // [B, H, Nq] int32
  const at::Tensor& q_sizes;   // [Nq] int32
  const at::Tensor& kv_sizes;  // [Nk] int32
};

struct AttentionOperands {
  const at::Tensor& q;  // [B, Nq*Tq, H, D]
  const at::Tensor& k;  // [B, Nk*Tk, H, D]
  const at::Tensor& v;  // [B, Nk*Tk, H, D]
};

struct AttentionResult {
  const at::Tensor& out;  // [B, Nq*Tq, H, D]
  const at::Tensor& lse;  // [B, H, Nq*Tq]
};

// Shapes, types and devices; reads no values.
void check_block_attention(const AttentionOperands& x, const BlockLists& lists);
void check_block_attention_backward(const at::Tensor& grad_out,
                                    const at::Tensor& grad_lse,
                                    const AttentionOperands& x,
                                    const AttentionResult& result,
                                    const BlockLists& lists);
double scale_or_default(std::optional<double> scale, const at::Tensor& q);  // 1 / sqrt(D)

std::tuple<at::Tensor, at::Tensor> plain_block_attention(const AttentionOperands& x,
                                                         const BlockLists& lists,
                                                         double scale);

// Gradients of q, k and v. `grad_lse` may be undefined.
std::tuple<at::Tensor, at::Tensor, at::Tensor> plain_block_attention_backward(
    const at::Tensor& grad_out,
    const at::Tensor& grad_lse,
    const AttentionOperands& x,
    const AttentionResult& result,
    const BlockLists& lists,
    double scale);

}  // namespace fastwan::ops
