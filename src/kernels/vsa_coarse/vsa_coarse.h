// The coarse stage of video sparse attention in two kernels: means of tiles, then scores, selection
// and the coarse output together.
//
//   mean[b, n, h]  = bf16(sum over the tile's tokens of x / number of tokens)
//   s[b, h, i, j]  = bf16(bf16(q_mean[b, i, h] . k_mean[b, j, h]) / sqrt(D))
//   block_index    = block_select of s: the K highest of each row, ties to the lower j, ascending
//   coarse[b, i, h] = bf16(sum_j bf16(softmax(s)[j]) v_mean[b, j, h])
//
// Dims     B batch, N tiles, H heads, D head size (64, 128), K tiles kept
// Layout   x [B, tokens, H, D] in raster order of a T x Y x X grid of 4x4x4 tiles, ragged at the
// far
//          edges, strides in elements, heads D apart; means and coarse [B, N, H, D];
//          block_index [B, H, N, K], block_count [B, H, N], always K
// Types    bf16; sums, exponentials and accumulators in fp32
// Cost     reads q, k and v once; the rest is 1/64 of that, read N/16 times from the L2 cache
#pragma once

#include <cstdint>

#include "kernels/block_attention/block_attention_sm90.h"
#include "kernels/common/bf16.h"

namespace fastwan::kernels {

inline constexpr int kPooled = 3;  // q, k, v

struct TilePoolArgs {
  Tokens<const Bf16> x[kPooled];
  Bf16* mean[kPooled];
  int64_t B, H, D;
  TokenGrid grid;
};

struct CoarseArgs {
  const Bf16* q_mean;
  const Bf16* k_mean;
  const Bf16* v_mean;  // null if coarse is
  int32_t* block_index;
  int32_t* block_count;
  Bf16* coarse;  // null: not wanted
  int64_t B, H, N, D, K;
};

namespace cuda {
void tile_pool(const TilePoolArgs& args, void* stream);
// N is at most 6,000: a row of scores for 16 tiles stays in shared memory.
void coarse_select(const CoarseArgs& args, void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
