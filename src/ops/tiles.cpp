#include "ops/tiles.h"

#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include "base/check.h"
#include "ops/registry.h"

namespace fastwan::ops {
namespace {

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// One axis of the grid, cut into tiles.
struct Axis {
  at::Tensor tile;    // [length] tile of each coordinate
  at::Tensor inner;   // [length] place within that tile
  at::Tensor extent;  // [length] coordinates that tile holds
  at::Tensor sizes;   // [tiles] coordinates each tile holds
};

Axis cut(int64_t length, int64_t side, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  const at::Tensor coordinate = at::arange(length, options);
  const at::Tensor tile = at::floor_divide(coordinate, side);
  const at::Tensor first = at::arange(0, length, side, options);  // of each tile
  return {.tile = tile,
          .inner = coordinate - tile * side,
          .extent = (length - tile * side).clamp_max(side),
          .sizes = (length - first).clamp_max(side)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> vsa_tile_index(int64_t T, int64_t H, int64_t W) {
  const AttentionPlan plan = plan_tiles(T, H, W, at::kCPU);
  return {plan.tile_index, plan.non_pad, plan.tile_sizes};
}

// For Python: a bad sparsity is a ValueError.
template <class... Arguments>
int64_t kept_or_value_error(int64_t (*rule)(Arguments...), Arguments... arguments) {
  try {
    return rule(arguments...);
  } catch (const InvalidInput& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

int64_t topk_op(double sparsity, int64_t tiles) {
  return kept_or_value_error(vsa_topk, sparsity, tiles);
}

int64_t topk_unpadded_op(double sparsity, int64_t num_tokens, int64_t tiles) {
  return kept_or_value_error(vsa_topk_unpadded, sparsity, num_tokens, tiles);
}

}  // namespace

int64_t volume(const Grid& grid) {
  return grid[0] * grid[1] * grid[2];
}

int64_t num_tiles(const Grid& grid, const Grid& tile) {
  return divide_up(grid[0], tile[0]) * divide_up(grid[1], tile[1]) * divide_up(grid[2], tile[2]);
}

AttentionPlan plan_tiles(int64_t T, int64_t H, int64_t W, at::Device device) {
  return plan_tiles({T, H, W}, kTile, device);
}

// Written as arithmetic on coordinates: it runs on the device and under a tracer.
AttentionPlan plan_tiles(const Grid& grid, const Grid& tile, at::Device device) {
  for (std::size_t axis = 0; axis < 3; ++axis) {
    TORCH_CHECK_VALUE(grid[axis] >= 1 && tile[axis] >= 1,
                      "plan_tiles: a grid and its tiles need at least 1x1x1 tokens, got the grid ",
                      at::IntArrayRef(grid), " and the tile ", at::IntArrayRef(tile));
  }
  const Axis t = cut(grid[0], tile[0], device);
  const Axis h = cut(grid[1], tile[1], device);
  const Axis w = cut(grid[2], tile[2], device);
  const auto along_t = [](const at::Tensor& x) { return x.view({-1, 1, 1}); };
  const auto along_h = [](const at::Tensor& x) { return x.view({-1, 1}); };
  const int64_t tiles_h = divide_up(grid[1], tile[1]), tiles_w = divide_up(grid[2], tile[2]);
  const at::Tensor tile_id =
      (along_t(t.tile) * tiles_h + along_h(h.tile)) * tiles_w + w.tile;  // [T, H, W]
  // valid tokens fill the first slots of a tile, in raster order
  const at::Tensor offset =
      (along_t(t.inner) * along_h(h.extent) + along_h(h.inner)) * w.extent + w.inner;
  const at::Tensor raster_slot = (tile_id * volume(tile) + offset).flatten();  // [S]
  const auto [non_pad, tile_index] = at::sort(raster_slot);
  return {
      .T = grid[0],
      .H = grid[1],
      .W = grid[2],
      .tile_index = tile_index,
      .raster_slot = raster_slot,
      .non_pad = non_pad,
      .tile_sizes = (along_t(t.sizes) * along_h(h.sizes) * w.sizes).flatten().to(at::kInt),  // [N]
      .tile_slots = volume(tile)};
}

at::Tensor to_tiles(const at::Tensor& x, const AttentionPlan& plan) {
  const c10::SymInt slots = plan.tile_sizes.sym_size(0) * plan.tile_slots;
  return at::zeros_symint({x.sym_size(0), slots, x.sym_size(2), x.sym_size(3)}, x.options())
      .index_copy_(1, plan.raster_slot, x);  // [B, N*slots, H, D]
}

at::Tensor to_raster(const at::Tensor& tiled, const AttentionPlan& plan) {
  return tiled.index_select(1, plan.raster_slot);  // [B, S, H, D]
}

void register_tiles(torch::Library& m) {
  m.impl("vsa_topk", topk_op);
  m.impl("vsa_topk_unpadded", topk_unpadded_op);
  m.impl("vsa_tile_index", vsa_tile_index);
}

}  // namespace fastwan::ops
