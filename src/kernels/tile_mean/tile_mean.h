// tile_mean: average the tokens of each tile (the coarse branch of video sparse attention).
//
//   out[b, n, h, :] = (1 / len[n]) * sum_{t < len[n]} x[b, n*T + t, h, :]
//
// Dims     B batch, N tiles, T slots a tile (64), H heads, D head size
// Layout   x [B, N*T, H, D], out [B, N, H, D], len [N]; all dense, D innermost
// Types    bf16 or float32 in (CUDA also fp16), the same out (nearest even); sums in float32, in
//          ascending order of t
// Padding  slots t >= len[n] of x are never read: they may hold NaN; 1 <= len[n] <= T
// Cost     reads B*N*T*H*D elements, writes 1/T of that: memory bound
#pragma once

#include <cstdint>

#include "kernels/common/bf16.h"
#include "kernels/common/fp16.h"
#include "kernels/common/range.h"

namespace fastwan::kernels {

struct TileDims {
  int64_t B, N, T, H, D;
};

template <class Element>  // float, Bf16; CUDA also Fp16, the reference also double
struct TileMeanArgs {
  const Element* x;
  const int32_t* len;
  Element* out;
  TileDims dims;
};

namespace ref {
template <class Element>
void tile_mean(const TileMeanArgs<Element>& args);
}
namespace cpu {  // the caller splits the B*N tiles over threads
void tile_mean(const TileMeanArgs<float>& args, Range tiles);
void tile_mean(const TileMeanArgs<Bf16>& args, Range tiles);
}  // namespace cpu
namespace cuda {
void tile_mean(const TileMeanArgs<float>& args, void* stream);
void tile_mean(const TileMeanArgs<Bf16>& args, void* stream);
void tile_mean(const TileMeanArgs<Fp16>& args, void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
