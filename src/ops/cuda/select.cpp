#include "ops/cuda/select.h"

#include <algorithm>
#include <limits>

#include "ops/topk.h"

namespace fastwan::ops {
namespace {

constexpr int64_t kMaxSide = 2040;         // tokens: a piece has 9 bits for a tile's place
constexpr int64_t kMaxCoarseTiles = 6000;  // a row of scores for 16 tiles stays in shared memory

int64_t tiles_along(int64_t tokens) {
  return (tokens + kTileSide - 1) / kTileSide;
}

}  // namespace

GpuKernel kernel_for(const Capability& gpu, at::ScalarType type, int64_t head_size) {
  const bool is_bf16 = type == at::kBFloat16;
  if ((!is_bf16 && type != at::kHalf) || (head_size != 64 && head_size != 128) || gpu.major < 8) {
    return GpuKernel::kPlain;
  }
  return is_bf16 && gpu.major == 9 && gpu.minor == 0 ? GpuKernel::kHopper : GpuKernel::kPortable;
}

GpuKernel select_block_attention(const Capability& gpu,
                                 at::ScalarType type,
                                 const AttentionCall& call) {
  const auto& [B, H, D, query_tiles, key_tiles, query_slots, key_slots, scale] = call;
  const bool has_tiles_of_64 = query_tiles > 0 && key_tiles > 0 &&
                               query_slots == query_tiles * kTileSlots &&
                               key_slots == key_tiles * kTileSlots;
  const bool fits =
      B * H > 0 && B * H * std::max(query_tiles, key_tiles) < std::numeric_limits<int32_t>::max();
  return has_tiles_of_64 && fits && scale > 0 ? kernel_for(gpu, type, D) : GpuKernel::kPlain;
}

bool takes_fused_raster(const Capability& gpu, at::ScalarType type, const RasterCall& call) {
  const auto& [T, H, W, head_size] = call;
  const int64_t N = tiles_along(T) * tiles_along(H) * tiles_along(W);
  return kernel_for(gpu, type, head_size) == GpuKernel::kHopper && N > 0 && N <= kMaxCoarseTiles &&
         std::max({T, H, W}) <= kMaxSide;
}

}  // namespace fastwan::ops
