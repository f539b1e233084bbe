// Video Sparse Attention, plain version: the formulas written out with tensor operations.
//
// Dims    B batch, S tokens in raster order, H heads, D head size, N tiles of 64 slots, K key tiles
//         chosen for a query tile
// Source  FastVideo attention/backends/video_sparse_attn.py and fastvideo-kernel ops.py
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/attention.h"
#include "ops/topk.h"

namespace fastwan::ops {

// x [B, S, H, D] in raster order -> [B, N*64, H, D] in tile order; slots beyond a tile's tokens are
// zero.
at::Tensor to_tiles(const at::Tensor& x, const AttentionPlan& plan);
// The inverse: x [B, N*64, H, D] -> [B, S, H, D].
at::Tensor to_raster(const at::Tensor& tiled, const AttentionPlan& plan);

// Mean of each tile's tokens, summed in fp32: tiled [B, N*64, H, D], tile_sizes [N] -> [B, N, H,
// D].
at::Tensor tile_mean(const at::Tensor& tiled, const at::Tensor& tile_sizes);

// The `topk` highest scores of each row: scores [B, H, Nq, Nk] -> [B, H, Nq, K] int32, ascending.
// Equal scores: the lower tile wins.
at::Tensor block_select(const at::Tensor& scores, int64_t topk);

// Softmax attention of each query tile over its chosen key tiles: q, k, v [B, N*64, H, D],
// block_index [B, H, N, K] int32, tile_sizes [N] -> [B, N*64, H, D]. Slots beyond a key tile's
// tokens take no part.
at::Tensor block_attention(const at::Tensor& q,
                           const at::Tensor& k,
                           const at::Tensor& v,
                           const at::Tensor& block_index,
                           const at::Tensor& tile_sizes);

// The whole operation in raster order; `gate` undefined: no coarse term. Inputs and result [B, S,
// H, D].
at::Tensor video_sparse_attn_raster(const AttentionInputs& in,
                                    const AttentionPlan& plan,
                                    int64_t topk);

}  // namespace fastwan::ops
