// The gradients of block_attention.
//
//   p[r, c]  = exp(scale * <q_r, k_c> - lse_r)           for the keys c that row r meets
//   delta_r  = <out_r, grad_out_r> - grad_lse_r
//   ds[r, c] = p[r, c] * (<grad_out_r, v_c> - delta_r)
//   grad_q_r = scale * sum_c ds[r, c] k_c
//   grad_k_c = scale * sum_r ds[r, c] q_r
//   grad_v_c = sum_r p[r, c] grad_out_r
//
// Dims, layout, types, lists and padding as in block_attention.h; grad_lse as lse, may be null;
// gradients of padding and of keys that no row meets are 0
// Cost     10 * D operations for each pair of a query and a key that meet
#pragma once

#include <cstdint>

#include "kernels/block_attention/block_attention.h"

namespace fastwan::kernels {

template <class Element>  // float, Bf16; the reference also double
struct BlockAttentionBackwardArgs {
  using Lse = typename BlockAttentionArgs<Element>::Lse;

  Tokens<const Element> q, k, v, out, grad_out;
  const Lse* lse;
  const Lse* grad_lse;
  Tokens<Element> grad_q, grad_k, grad_v;
  BlockList list;
  double scale;
  BlockAttentionDims dims;
};

namespace ref {
template <class Element>
void block_attention_backward(const BlockAttentionBackwardArgs<Element>& args);
}

// Three steps, each over independent pieces, for some heads at a time (bh counts b * H + h):
// pack_keys; accumulate, which walks query tiles, writes grad_q and adds keys' gradients into sums;
// store_key_gradients, which adds the sums. A head's query tiles are cut into `segments` runs with
// sums of their own. Their number is part of the result's bits: choose it by shape, never by
// threads.
namespace cpu {
struct BackwardWork {
  float* packed;  // packed_floats for each head from first_bh on, 64-byte aligned
  float* sums;    // sums_floats for each segment of each head from first_bh on, 64-byte aligned
  int64_t first_bh;
  int64_t segments;  // of a head
};
struct BackwardFloats {
  int64_t packed;   // of one head
  int64_t sums;     // of one segment
  int64_t scratch;  // of one running call of accumulate
};
BackwardFloats backward_floats(const BlockAttentionDims& dims);

using BackwardFloatArgs = BlockAttentionBackwardArgs<float>;
using BackwardBf16Args = BlockAttentionBackwardArgs<Bf16>;
// `key_tiles` counts bh * Nk + tile, `segments` counts bh * work.segments + segment.
void pack_keys(const BackwardFloatArgs& args, const BackwardWork& work, Range key_tiles);
void pack_keys(const BackwardBf16Args& args, const BackwardWork& work, Range key_tiles);
void accumulate(const BackwardFloatArgs& args,
                const BackwardWork& work,
                float* scratch,
                Range segments);
void accumulate(const BackwardBf16Args& args,
                const BackwardWork& work,
                float* scratch,
                Range segments);
void store_key_gradients(const BackwardFloatArgs& args, const BackwardWork& work, Range key_tiles);
void store_key_gradients(const BackwardBf16Args& args, const BackwardWork& work, Range key_tiles);
}  // namespace cpu

}  // namespace fastwan::kernels
