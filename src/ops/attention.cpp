#include "ops/attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "ops/block_attention.h"
#include "ops/tiles.h"
#include "ops/video_sparse_attn.h"

namespace fastwan::ops {
namespace {

constexpr int64_t kTile = 64;
// Wider heads are no faster through block_attention than through torch's own attention
// (docs/kernels/block_attention.md).
constexpr int64_t kWidestHead = 64;
constexpr int64_t kMostTiles = 256;  // lists of all pairs: 256 KB a head

// Tokens of a tile that cuts all tokens evenly; 0: none does.
int64_t even_tile(int64_t tokens) {
  if (tokens <= kTile) {
    return tokens;
  }
  return tokens % kTile == 0 && tokens <= kMostTiles * kTile ? kTile : 0;
}

// A matter of types and shapes alone: the same bits with and without gradients.
bool takes_tiles(const at::Tensor& q, const at::Tensor& k) {
  return q.is_cpu() && q.scalar_type() == at::kFloat && q.size(3) <= kWidestHead &&
         even_tile(q.size(1)) > 0 && even_tile(k.size(1)) > 0;
}

at::Tensor over_all_tiles(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t B = q.size(0), H = q.size(2);
  const int64_t Tq = even_tile(q.size(1)), Tk = even_tile(k.size(1));
  const int64_t Nq = q.size(1) / Tq, Nk = k.size(1) / Tk;
  const auto whole = at::TensorOptions(at::kInt);
  const at::Tensor index = at::arange(Nk, whole).expand({B, H, Nq, Nk});
  return std::get<0>(block_attention(q, k, v, index, at::full({B, H, Nq}, Nk, whole),
                                     at::full({Nq}, Tq, whole), at::full({Nk}, Tk, whole)));
}

}  // namespace

at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (takes_tiles(q, k)) {
    return over_all_tiles(q, k, v);  // [B, S, H, D]
  }
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
