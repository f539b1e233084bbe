#include "ops/attention.h"

#include <ATen/ops/scaled_dot_product_attention.h>

namespace fastwan::ops {

at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  // SDPA wants heads before tokens: views, no copies.
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
      .transpose(1, 2);  // [B, S, H, D]
}

at::Tensor FullAttention::forward(const AttentionInputs& in, const AttentionPlan&) const {
  return dense_attention(in.q, in.k, in.v);
}

}  // namespace fastwan::ops
