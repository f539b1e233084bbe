// Tiles of a token grid: which token lies in which slot.
#pragma once

#include <array>

#include <ATen/core/Tensor.h>

#include "ops/attention.h"
#include "ops/topk.h"

namespace fastwan::ops {

using Grid = std::array<int64_t, 3>;  // T, H, W

inline constexpr Grid kTile{kTileSide, kTileSide, kTileSide};

int64_t volume(const Grid& grid);
// Tiles of a grid, partial ones at the far edges included.
int64_t num_tiles(const Grid& grid, const Grid& tile);

// plan_tiles of attention.h for any tile.
AttentionPlan plan_tiles(const Grid& grid, const Grid& tile, at::Device device);

// x [B, S, H, D] in raster order -> [B, N*slots, H, D] in tile order; slots beyond a tile's tokens
// are zero. Differentiable.
at::Tensor to_tiles(const at::Tensor& x, const AttentionPlan& plan);
// The inverse: [B, N*slots, H, D] -> [B, S, H, D]. Differentiable.
at::Tensor to_raster(const at::Tensor& tiled, const AttentionPlan& plan);

}  // namespace fastwan::ops
