// block_attention: softmax attention of each query tile over its own list of key tiles (the fine
// branch of video sparse attention).
//
//   s[r, c] = scale * <q_r, k_c>      c over the tokens of the first count tiles of index
//   out_r   = sum_c softmax(s[r, :])_c v_c
//   lse_r   = ln sum_c exp(s[r, c])
//
// Dims     B batch, H heads, D head size; Nq tiles of Tq query slots, Nk tiles of Tk key slots;
//          K width of the lists
// Layout   q, out [B, Nq*Tq, H, D] and k, v [B, Nk*Tk, H, D] with strides, D innermost and dense;
//          lse [B, H, Nq*Tq], index [B, H, Nq, K], count [B, H, Nq], sizes [Nq] and [Nk] dense
// Types    float32 or bf16 (lse float32); products, weights and sums in float32, one rounding into
//          out; online softmax in base 2. With Bf16Products::kPairs weights are rounded to bf16
//          before they meet values and divided by their own sum; lse comes from unrounded ones;
//          subnormal numbers count as 0
// Lists    a key tile at most once a list; index entries behind the count are never read; tiles are
//          taken in the order of the list
// Padding  slots at or beyond a tile's size are never read; such rows of out are set to 0 and their
//          lse to -inf, as are rows whose list is empty
// Cost     4 * D floating point operations for each pair of a query and a key that meet: compute
//          bound
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/common/bf16.h"
#include "kernels/common/range.h"

namespace fastwan::kernels {

struct BlockAttentionDims {
  int64_t B, H, Nq, Nk, Tq, Tk, D, K;
};

// Element [b, s, h, d] is data[b * batch + s * token + h * head + d].
template <class Element>
struct Tokens {
  Element* data;
  int64_t batch, token, head;

  Element* row(int64_t b, int64_t s, int64_t h) const {
    return data + b * batch + s * token + h * head;
  }
};

struct BlockList {
  const int32_t* index;     // [B, H, Nq, K]
  const int32_t* count;     // [B, H, Nq]
  const int32_t* q_sizes;   // [Nq]
  const int32_t* kv_sizes;  // [Nk]
};

template <class Element>  // float, Bf16; the reference also double
struct BlockAttentionArgs {
  using Lse = std::conditional_t<std::is_same_v<Element, double>, double, float>;

  Tokens<const Element> q, k, v;
  Tokens<Element> out;
  Lse* lse;
  BlockList list;
  double scale;
  BlockAttentionDims dims;
};

namespace ref {
template <class Element>
void block_attention(const BlockAttentionArgs<Element>& args);
}

// Keys and values are packed once a head, then read by every query tile. A caller takes some heads
// at a time: bh counts b * H + h.
namespace cpu {
// How bf16 operands are multiplied: widened to float32, or two at a time as AVX-512 BF16 does.
enum class Bf16Products { kWidened, kPairs };
Bf16Products best_bf16_products();  // of this machine; kPairs runs where this says so

struct PackedKeys {
  float* data;  // packed_floats(dims) for each head from first_bh on, 64-byte aligned
  int64_t first_bh;
  Bf16Products products;  // of bf16 arguments; the same for packing and attention
};
int64_t packed_floats(const BlockAttentionDims& dims);   // of one head
int64_t scratch_floats(const BlockAttentionDims& dims);  // of one running call of block_attention

// `key_tiles` counts bh * Nk + tile.
void pack_keys(const BlockAttentionArgs<float>& args, const PackedKeys& packed, Range key_tiles);
void pack_keys(const BlockAttentionArgs<Bf16>& args, const PackedKeys& packed, Range key_tiles);
// `query_tiles` counts bh * Nq + tile; scratch is 64-byte aligned.
void block_attention(const BlockAttentionArgs<float>& args,
                     const PackedKeys& packed,
                     float* scratch,
                     Range query_tiles);
void block_attention(const BlockAttentionArgs<Bf16>& args,
                     const PackedKeys& packed,
                     float* scratch,
                     Range query_tiles);
}  // namespace cpu

}  // namespace fastwan::kernels
