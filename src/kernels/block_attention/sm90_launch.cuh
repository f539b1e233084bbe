// Host side shared by the forward and the backward kernels.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include "kernels/block_attention/block_attention_sm90.h"
#include "kernels/block_attention/sm90_ring.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/common/hopper/tensor_map.h"

namespace fastwan::kernels::cuda::sm90 {

inline bool is_raster(const TokenGrid& grid) {
  return grid.T != 0;
}

struct MapShape {
  TokenGrid grid;
  int64_t B, H, D;
  int64_t tiles;  // tiled order: how many
};

inline CUtensorMap piece_map(const Tokens<const Bf16>& x, const MapShape& shape, int piece_class) {
  const TokenGrid& g = shape.grid;
  if (is_raster(g)) {
    const bool narrow = (piece_class & 1) != 0, thin = (piece_class & 2) != 0;
    return hopper::tensor_map(
        {.base = x.data,
         .num_dims = 5,
         .size = {shape.H * shape.D, g.X, g.Y, g.T, shape.B},
         .stride = {1, x.token, g.X * x.token, g.Y * g.X * x.token, x.batch},
         .box = {kColumns, kTileSide, narrow ? 2 : kTileSide, thin ? 1 : kTileSide, 1}});
  }
  return hopper::tensor_map({.base = x.data,
                             .num_dims = 4,
                             .size = {shape.D, shape.tiles * kTileRows, shape.H, shape.B},
                             .stride = {1, x.token, x.head, x.batch},
                             .box = {kColumns, kTileRows >> piece_class, 1, 1}});
}

inline PairMaps pair_maps(const Tokens<const Bf16>& first,
                          const Tokens<const Bf16>& second,
                          const MapShape& shape) {
  PairMaps maps;
  for (int i = 0; i < kClasses; ++i) {
    maps.first[i] = piece_map(first, shape, i);
    maps.second[i] = piece_map(second, shape, i);
  }
  return maps;
}

inline MapShape map_shape(const TokenGrid& grid, const FineDims& d, int64_t tiles) {
  return {.grid = grid, .B = d.B, .H = d.H, .D = d.D, .tiles = tiles};
}

// Pieces that one tile can give.
inline int64_t pieces_of_tile(const TokenGrid& grid) {
  return is_raster(grid) ? std::max<int64_t>(grid.T % kTileSide, 1) : kMaxPieces;
}

// Lists of tiles to lists of pieces, one warp a list.
struct PieceLists {
  Piece* pieces;
  uint32_t* begin;
  int32_t* count;
};

// Whose tiles are the items, and whose come to them in pieces.
struct Sides {
  int64_t own_tiles, other_tiles;  // of a plane
  const int32_t *own_sizes, *other_sizes;
};

inline Sides queries_meet_keys(const FineDims& d, const BlockList& list) {
  return {d.Nq, d.Nk, list.q_sizes, list.kv_sizes};
}

inline Sides keys_meet_queries(const FineDims& d, const BlockList& list) {
  return {d.Nk, d.Nq, list.kv_sizes, list.q_sizes};
}

inline Walk make_walk(const TokenGrid& grid,
                      const FineDims& d,
                      const Sides& sides,
                      const PieceLists& lists) {
  const auto tiles = [](int64_t side) {
    return static_cast<int32_t>((side + kTileSide - 1) / kTileSide);
  };
  return {.items = static_cast<int32_t>(d.B * d.H * sides.own_tiles),
          .heads = static_cast<int32_t>(d.H),
          .tiles = static_cast<int32_t>(sides.own_tiles),
          .grid_t = static_cast<int32_t>(grid.T),
          .grid_y = static_cast<int32_t>(grid.Y),
          .grid_x = static_cast<int32_t>(grid.X),
          .tiles_y = tiles(grid.Y),
          .tiles_x = tiles(grid.X),
          .other_tiles = static_cast<int32_t>(sides.other_tiles),
          .own_sizes = sides.own_sizes,
          .other_sizes = sides.other_sizes,
          .pieces = lists.pieces,
          .begin = lists.begin,
          .count = lists.count};
}

struct PlanArgs {
  Walk walk;
  BlockList list;
  int64_t K;
  int64_t pitch;  // pieces from one list to the next
};

constexpr int kPlanWarps = 4;

template <bool kRaster>
__global__ void __launch_bounds__(kPlanWarps * 32)
    plan_kernel(const __grid_constant__ PlanArgs a, PieceLists to) {
  const Walk& w = a.walk;
  const auto row = static_cast<int64_t>(blockIdx.x) * kPlanWarps + threadIdx.x / 32;
  if (row >= w.items) {
    return;
  }
  const int32_t length = a.list.count[row];
  const auto tile_at = [&](int32_t i) { return i < length ? a.list.index[row * a.K + i] : -1; };
  const uint64_t counts = count_pieces<kRaster>(w, length, tile_at);
  write_pieces<kRaster>(w, length, tile_at, counts, to.pieces + row * a.pitch);
  if (threadIdx.x % 32 == 0) {
    to.begin[row] = static_cast<uint32_t>(row * a.pitch);
    to.count[row] = max(1, sum_of_classes(counts));
  }
}

template <bool kRaster>
void launch_plan(const PlanArgs& args, const PieceLists& to, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.walk.items + kPlanWarps - 1) / kPlanWarps);
  plan_kernel<kRaster><<<blocks, kPlanWarps * 32, 0, stream>>>(args, to);
}

// Calls run.operator()<head size, raster>().
template <class Run>
void with_instance(const FineDims& d, const TokenGrid& grid, const Run& run) {
  if (is_raster(grid)) {
    d.D == 64 ? run.template operator()<64, true>() : run.template operator()<128, true>();
  } else {
    d.D == 64 ? run.template operator()<64, false>() : run.template operator()<128, false>();
  }
}

// One block a multiprocessor; each walks over its items.
template <class Kernel, class... Params>
void launch_persistent(
    Kernel kernel, int threads, uint32_t smem_bytes, cudaStream_t stream, const Params&... params) {
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(smem_bytes));
  kernel<<<static_cast<unsigned>(multiprocessors), static_cast<unsigned>(threads), smem_bytes,
           stream>>>(params...);
}

}  // namespace fastwan::kernels::cuda::sm90
