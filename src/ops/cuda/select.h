// Which kernel serves a call on a GPU: pure functions of what is known without reading values, so
// that the choice is tested without a GPU.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace fastwan::ops {

enum class GpuKernel {
  kPlain,     // torch's own operators
  kPortable,  // mma.sync: compute capability 8.0 and newer, bf16 and fp16
  kHopper,    // wgmma and TMA: compute capability 9.0 alone, bf16
};

struct Capability {
  int major, minor;
};

// The kernel that is made for this GPU, type and head size.
GpuKernel kernel_for(const Capability& gpu, at::ScalarType type, int64_t head_size);

struct AttentionCall {
  int64_t B, H, D;
  int64_t query_tiles, key_tiles;
  int64_t query_slots, key_slots;  // all of them: tiles times slots a tile
  double scale;
};

// kernel_for, if the kernels take these sizes: tiles of 64 slots, some queries, keys and heads, a
// positive scale (the maximum of a row is sought before it is scaled), 32-bit counts of tiles'
// rows.
GpuKernel select_block_attention(const Capability& gpu,
                                 at::ScalarType type,
                                 const AttentionCall& call);

// The whole of video_sparse_attn_raster in a few kernels.
struct RasterCall {
  int64_t T, H, W;  // tokens
  int64_t head_size;
};
bool takes_fused_raster(const Capability& gpu, at::ScalarType type, const RasterCall& call);

}  // namespace fastwan::ops
