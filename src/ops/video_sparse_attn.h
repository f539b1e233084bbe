// Video Sparse Attention, the whole operation: coarse attention between tile means, selection of
// key tiles, fine attention within them, gate.
//
//   s = mean(q) mean(k)^T / sqrt(D)                coarse scores of each query and key tile
//   out = softmax(s) mean(v) * gate + block_attention(q, k, v; topk of s)
//
// Dims     B batch, S tokens, H heads, D head size, N tiles
// Rounding means, scores, coarse output, fine output and sum are each rounded to the inputs' type,
//          as in the published kernels
// Gradient flows through both terms, not through the selection
// Source   FastVideo attention/backends/video_sparse_attn.py, fastvideo-kernel ops.py
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/attention.h"

namespace fastwan::ops {

// Inputs and result [B, S, H, D] in raster order; `gate` undefined: no coarse term.
at::Tensor video_sparse_attn_raster(const AttentionInputs& in,
                                    const AttentionPlan& plan,
                                    int64_t topk);

}  // namespace fastwan::ops
