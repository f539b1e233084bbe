#include "ops/attention.h"

#include <ATen/ops/scaled_dot_product_attention.h>

#include "ops/tiles.h"
#include "ops/video_sparse_attn.h"

namespace fastwan::ops {

at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  // SDPA wants heads before tokens: views, no copies.
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
      .transpose(1, 2);  // [B, S, H, D]
}

at::Tensor FullAttention::forward(const AttentionInputs& in, const AttentionPlan&) const {
  return dense_attention(in.q, in.k, in.v);
}

at::Tensor VsaAttention::forward(const AttentionInputs& in, const AttentionPlan& plan) const {
  const int64_t num_tiles = plan.tile_sizes.size(0);
  const int64_t topk =
      sparsity_.rule == TopkRule::kPadded
          ? vsa_topk(sparsity_.value, num_tiles)
          : vsa_topk_unpadded(sparsity_.value, plan.T * plan.H * plan.W, num_tiles);
  return video_sparse_attn_raster(in, plan, topk);
}

}  // namespace fastwan::ops
