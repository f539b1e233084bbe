// fastwan::block_attention: softmax attention of each query tile over its own list of key tiles;
// differentiable in q, k, v, also through lse.
//
//   s[r, c] = scale * <q_r, k_c>     c over the tokens of tiles block_index[b, h, n, :count]
//   out_r   = sum_c softmax(s[r, :])_c v_c        lse_r = ln sum_c exp(s[r, c])
//
// Dims     B batch, H heads, D head size; Nq tiles of Tq query slots, Nk of Tk key slots, K list
//          width
// Layout   q, out [B, Nq*Tq, H, D]; k, v [B, Nk*Tk, H, D]; any strides; lse [B, H, Nq*Tq]
// Lists    block_index [B, H, Nq, K] int32, block_count [B, H, Nq] int32: the first count entries
//          hold, each key tile at most once; entries behind them are never looked at
// Padding  slots at or beyond q_sizes [Nq] or kv_sizes [Nk] (int32) take no part and may hold NaN;
//          rows that attend to nothing (padding, count 0): out 0, lse -inf, gradients 0
// Types    q, k, v alike; products and sums in float32 (float64 for float64), rounded once into
// out;
//          lse float32 (float64)
#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// `scale` left out: 1 / sqrt(D).
std::tuple<at::Tensor, at::Tensor> block_attention(const at::Tensor& q,
                                                   const at::Tensor& k,
                                                   const at::Tensor& v,
                                                   const at::Tensor& block_index,
                                                   const at::Tensor& block_count,
                                                   const at::Tensor& q_sizes,
                                                   const at::Tensor& kv_sizes,
                                                   std::optional<double> scale = std::nullopt);

}  // namespace fastwan::ops
