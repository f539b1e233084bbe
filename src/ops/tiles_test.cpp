#include "ops/tiles.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::ops {
namespace {

std::vector<int64_t> values_of(const at::Tensor& x) {
  const at::Tensor dense = x.to(at::kLong).contiguous();
  return {dense.const_data_ptr<int64_t>(), dense.const_data_ptr<int64_t>() + dense.numel()};
}

struct Wanted {
  std::vector<int64_t> tile_index, raster_slot, non_pad, tile_sizes;
};

// Tile by tile, token by token.
Wanted brute_force(const Grid& grid, const Grid& tile) {
  const auto [T, H, W] = grid;
  Wanted wanted;
  wanted.raster_slot.resize(static_cast<std::size_t>(volume(grid)));
  for (int64_t t0 = 0; t0 < T; t0 += tile[0]) {
    for (int64_t h0 = 0; h0 < H; h0 += tile[1]) {
      for (int64_t w0 = 0; w0 < W; w0 += tile[2]) {
        const int64_t first = static_cast<int64_t>(wanted.tile_sizes.size()) * volume(tile);
        int64_t size = 0;
        for (int64_t t = t0; t < std::min(t0 + tile[0], T); ++t) {
          for (int64_t h = h0; h < std::min(h0 + tile[1], H); ++h) {
            for (int64_t w = w0; w < std::min(w0 + tile[2], W); ++w) {
              const int64_t raster = (t * H + h) * W + w;
              wanted.tile_index.push_back(raster);
              wanted.non_pad.push_back(first + size);
              wanted.raster_slot[static_cast<std::size_t>(raster)] = first + size;
              ++size;
            }
          }
        }
        wanted.tile_sizes.push_back(size);
      }
    }
  }
  return wanted;
}

TEST(Tiles, IndicesAndSizesEqualBruteForce) {
  for (const Grid& grid :
       {Grid{4, 4, 4}, Grid{5, 6, 7}, Grid{1, 1, 1}, Grid{3, 9, 5}, Grid{21, 30, 52}}) {
    for (const Grid& tile : {kTile, Grid{2, 3, 5}, Grid{1, 8, 8}}) {
      const AttentionPlan plan = plan_tiles(grid, tile, at::kCPU);
      const Wanted wanted = brute_force(grid, tile);
      EXPECT_EQ(values_of(plan.tile_index), wanted.tile_index);
      EXPECT_EQ(values_of(plan.raster_slot), wanted.raster_slot);
      EXPECT_EQ(values_of(plan.non_pad), wanted.non_pad);
      EXPECT_EQ(values_of(plan.tile_sizes), wanted.tile_sizes);
      EXPECT_EQ(plan.tile_sizes.numel(), num_tiles(grid, tile));
      EXPECT_EQ(plan.tile_slots, volume(tile));
    }
  }
}

TEST(Tiles, RaggedGridsAreCompacted) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  EXPECT_EQ(values_of(plan.tile_sizes), (std::vector<int64_t>{64, 48, 32, 24, 16, 12, 8, 6}));
  const std::vector<int64_t> order = values_of(plan.tile_index);
  EXPECT_EQ(std::vector<int64_t>(order.begin(), order.begin() + 9),
            (std::vector<int64_t>{0, 1, 2, 3, 7, 8, 9, 10, 14}));
  EXPECT_EQ(std::vector<int64_t>(order.begin() + 64, order.begin() + 72),
            (std::vector<int64_t>{4, 5, 6, 11, 12, 13, 18, 19}));
}

TEST(Tiles, TilesAndBackIsTheIdentityAndPaddingIsZero) {
  for (const Grid& grid : {Grid{4, 4, 4}, Grid{5, 6, 7}, Grid{1, 1, 1}, Grid{3, 9, 5}}) {
    const AttentionPlan plan = plan_tiles(grid, kTile, at::kCPU);
    const int64_t S = volume(grid);
    const at::Tensor x = at::arange(1, 2 * S * 3 + 1, at::kFloat).view({2, S, 1, 3});
    const at::Tensor tiled = to_tiles(x, plan);  // [2, N*64, 1, 3]
    EXPECT_TRUE(at::equal(to_raster(tiled, plan), x));
    EXPECT_EQ(tiled.count_nonzero().item<int64_t>(), x.numel());
    EXPECT_TRUE(at::equal(tiled.index_select(1, plan.non_pad), x.index_select(1, plan.tile_index)));
  }
}

TEST(Tiles, EmptyGridsAreRefused) {
  EXPECT_THROW(plan_tiles(0, 4, 4, at::kCPU), c10::ValueError);
  EXPECT_THROW(plan_tiles({4, 4, 4}, {4, 0, 4}, at::kCPU), c10::ValueError);
}

TEST(Topk, FollowsTheTableOfPublishedShapes) {
  struct Row {
    Grid grid;
    int64_t tiles, padded8, unpadded8, padded9, unpadded9;
  };
  for (const Row& row :
       {Row{{21, 30, 52}, 624, 125, 103, 63, 52}, Row{{16, 28, 52}, 364, 73, 73, 37, 37},
        Row{{20, 28, 52}, 455, 91, 91, 46, 46}, Row{{21, 28, 52}, 546, 110, 96, 55, 48},
        Row{{21, 45, 80}, 1440, 288, 237, 144, 119}, Row{{31, 22, 40}, 480, 96, 86, 48, 43}}) {
    EXPECT_EQ(num_tiles(row.grid, kTile), row.tiles);
    EXPECT_EQ(vsa_topk(.8, row.tiles), row.padded8);
    EXPECT_EQ(vsa_topk(.9, row.tiles), row.padded9);
    EXPECT_EQ(vsa_topk_unpadded(.8, volume(row.grid), row.tiles), row.unpadded8);
    EXPECT_EQ(vsa_topk_unpadded(.9, volume(row.grid), row.tiles), row.unpadded9);
  }
}

TEST(Topk, RoundsUpInDoubleAndStaysWithinTheTiles) {
  struct Row {
    double sparsity;
    std::vector<int64_t> kept;  // of 1, 2, 3, 364 and 624 tiles
  };
  const std::vector<int64_t> tiles{1, 2, 3, 364, 624};
  for (const Row& row :
       {Row{0, {1, 2, 3, 364, 624}}, Row{.1, {1, 2, 3, 328, 562}}, Row{.25, {1, 2, 3, 273, 468}},
        Row{.75, {1, 1, 1, 91, 156}}, Row{.8, {1, 1, 1, 73, 125}}, Row{.9, {1, 1, 1, 37, 63}},
        Row{.99, {1, 1, 1, 4, 7}}, Row{1, {1, 1, 1, 1, 1}}}) {
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      EXPECT_EQ(vsa_topk(row.sparsity, tiles[i]), row.kept[i]) << row.sparsity << " " << tiles[i];
      // without padding both rules agree
      EXPECT_EQ(vsa_topk_unpadded(row.sparsity, 64 * tiles[i], tiles[i]), row.kept[i]);
    }
  }
  EXPECT_THROW(vsa_topk(1.5, 4), InvalidInput);
  EXPECT_THROW(vsa_topk(-.1, 4), InvalidInput);
  EXPECT_THROW(vsa_topk(std::nan(""), 4), InvalidInput);
  EXPECT_THROW(vsa_topk(.5, 0), InvalidInput);
}

}  // namespace
}  // namespace fastwan::ops
