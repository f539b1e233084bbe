// The Hopper kernels behind block_attention, and the fine stage of video sparse attention straight
// from raster order: the same mathematics at other addresses.
//
//   fine     out as block_attention.h has it; with a gate, out[b, i, h] =
//            bf16(bf16(coarse[b, i's tile, h] * gate[b, i, h]) + bf16(block attention))
//   backward delta = rowsum(out * dout), P = exp(scale q k^T - lse), dS = P (dout v^T - delta +
//   dlse),
//            dv = P^T dout, dq = scale dS k, dk = scale dS^T q; of block attention alone
//
// Dims     as block_attention.h, tiles of 64 slots, D 64 or 128
// Layout   strides are multiples of 8 elements, data 16-byte aligned; coarse [B, Nq, H, D] dense;
//          index, count, sizes and lse as block_attention.h has them
// Order    grid 0: tiled. Else raster: tokens of a T x Y x X grid in tiles of 4x4x4, ragged at the
// far
//          edges; Nq = Nk = all tiles, sizes are not read, heads lie D apart, each side is at most
//          2,040. Slot t*16 + y*4 + x of a tile's 64 entries in lse is the token at (t, y, x) of
//          its box; entries without a token stay as they are
// Types    bf16; scores, sums and accumulators in float32; weights and dS rounded to bf16
// Padding  never used: it may hold NaN. Slots without a token become 0 in out, dq, dk and dv, -inf
// in
//          lse (tiled order)
// Cost     forward 4 D, backward 14 D operations a pair of a query slot and a listed key: scores
// and
//          dout v^T are computed twice, so that dq and dk, dv each have one writer and no atomics
#pragma once

#include <cstdint>

#include "kernels/block_attention/block_attention.h"

namespace fastwan::kernels {

struct TokenGrid {
  int64_t T, Y, X;  // 0, 0, 0: tiled order
};

struct FineDims {
  int64_t B, H, Nq, Nk, D, K;
};

struct FineArgs {
  Tokens<const Bf16> q, k, v;
  Tokens<const Bf16> gate;  // data null: no coarse term
  const Bf16* coarse;
  Tokens<Bf16> out;
  float* lse;  // null: not wanted
  BlockList list;
  TokenGrid grid;
  FineDims dims;
  float scale;  // positive
};

struct FineBackwardArgs {
  Tokens<const Bf16> q, k, v, out, dout;
  const float* lse;
  const float* dlse;  // gradient of lse, null: none
  Tokens<Bf16> dq, dk, dv;
  BlockList list;
  TokenGrid grid;
  FineDims dims;
  float scale;
};

namespace cuda::sm90 {
FineArgs fine_args(const BlockAttentionArgs<Bf16>& args);

int64_t workspace_bytes(const FineArgs& args);
void block_attention(const FineArgs& args, void* workspace, void* stream);

int64_t workspace_bytes(const FineBackwardArgs& args);
void block_attention_backward(const FineBackwardArgs& args, void* workspace, void* stream);
}  // namespace cuda::sm90

}  // namespace fastwan::kernels
