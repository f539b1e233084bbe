// What a copy brings, and lists of it.
//
// A piece is 64, 32, 16 or 8 rows, by its class. Powers of two in falling order fill slots of 64
// rows without a gap and without a piece that straddles two slots: ragged tiles cost what they
// hold.
//   tiled    any run of rows
//   raster   boxes of x, y, t tokens: 4x4x4, 4x2x4, 4x4x1, 4x2x1
#pragma once

#include <cstdint>

namespace fastwan::kernels::cuda::sm90 {

constexpr int kTileRows = 64;
constexpr int kTileSide = 4;
constexpr int kGroupRows = 8;  // the smallest piece: one swizzle atom of shared memory
constexpr int kClasses = 4;

// One word a piece, so that a producer lives in 32 registers.
//   tiled    class in bits 0-1, rows beyond the tile's tokens in bits 2-5, first row / 8 above
//   raster   class in bits 0-1, tile x in 2-10, tile y in 11-19, token t in 20-30
// An empty list has one piece of 8 rows, none valid.
using Piece = uint32_t;
constexpr Piece kEmptyTiled = 3 | 8 << 2;
constexpr Piece kEmptyRaster = 3 | 511 << 2;  // outside any grid
constexpr int kMaxPieces = 3;                 // a tile: 56 rows are 32 + 16 + 8

// Who reads which pieces: an item is one tile of 64 rows, counted over batch, head, tile.
struct Walk {
  int32_t items, heads, tiles;
  int32_t grid_t, grid_y, grid_x;  // raster order only
  int32_t tiles_y, tiles_x;
  int32_t other_tiles;         // a plane: of the tiles that come in pieces
  const int32_t* own_sizes;    // [tiles], tiled order only: tokens in the item's tile
  const int32_t* other_sizes;  // of the tiles that come in pieces
  const Piece* pieces;
  const uint32_t* begin;  // [items]: first piece
  const int32_t* count;   // [items]
};

// Where a tile lies in the grid and how far it reaches.
struct GridTile {
  int32_t t, y, x;     // first token
  int32_t nt, ny, nx;  // tokens along each side
};

__device__ inline GridTile grid_tile(const Walk& w, int32_t tile) {
  const int32_t x = tile % w.tiles_x * kTileSide;
  const int32_t y = tile / w.tiles_x % w.tiles_y * kTileSide;
  const int32_t t = tile / w.tiles_x / w.tiles_y * kTileSide;
  return {t,
          y,
          x,
          min(kTileSide, w.grid_t - t),
          min(kTileSide, w.grid_y - y),
          min(kTileSide, w.grid_x - x)};
}

__device__ inline uint64_t low_bits(int32_t n) {
  return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
}

// A bit for each row of a piece that holds a token.
template <bool kRaster>
__device__ uint64_t valid_rows(const Walk& w, Piece piece) {
  const uint32_t piece_class = piece & 3;
  const int32_t rows = kTileRows >> piece_class;
  if constexpr (kRaster) {
    const int32_t x = static_cast<int32_t>(piece >> 2 & 511) * kTileSide;
    const int32_t y = static_cast<int32_t>(piece >> 11 & 511) * kTileSide;
    const int32_t nx = max(0, min(kTileSide, w.grid_x - x));
    const int32_t ny = min(kTileSide, w.grid_y - y);
    // One plane of t: ny lines of nx tokens; lines take 4 bits, planes 16 or (classes 1 and 3) 8.
    uint32_t plane = 0x1111U * ((1U << nx) - 1) & ((1U << 4 * ny) - 1);
    plane |= (piece_class & 1) != 0 ? plane << 8 : 0;
    plane |= plane << 16;
    return (plane | uint64_t{plane} << 32) & low_bits(rows);
  } else {
    return low_bits(rows - static_cast<int32_t>(piece >> 2 & 15));
  }
}

// The pieces of one tile.
template <bool kRaster>
struct TilePieces {
  int32_t rows = 0;       // tiled: rounded up to 8
  int32_t shortage = 0;   // tiled: rows beyond the tokens
  int32_t box_class = 0;  // raster: all pieces are of one class
  int32_t box_count = 0;  // raster
  uint32_t word = 0;      // of the first piece

  __device__ TilePieces(const Walk& w, int32_t tile) {
    if constexpr (kRaster) {
      const GridTile g = grid_tile(w, tile);
      const int32_t narrow = g.ny <= 2 ? 1 : 0, thin = g.nt < kTileSide ? 2 : 0;
      box_class = narrow + thin;
      box_count = thin != 0 ? g.nt : 1;
      word = static_cast<uint32_t>(box_class | g.x / kTileSide << 2 | g.y / kTileSide << 11 |
                                   g.t << 20);
    } else {
      const int32_t size = w.other_sizes[tile];
      rows = (size + kGroupRows - 1) & ~(kGroupRows - 1);
      shortage = rows - size;
      word = static_cast<uint32_t>(tile * (kTileRows / kGroupRows)) << 6;
    }
  }

  // Pieces of each class, 16 bits a class.
  __device__ uint64_t counts() const {
    if constexpr (kRaster) {
      return static_cast<uint64_t>(box_count) << (16 * box_class);
    } else {
      uint64_t all = 0;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        all |= static_cast<uint64_t>((rows >> (6 - c)) & 1) << (16 * c);
      }
      return all;
    }
  }

  // `to` has the place of the first piece of each class, 16 bits a class.
  __device__ void write(Piece* out, uint64_t to) const {
    if constexpr (kRaster) {
      for (int32_t i = 0; i < box_count; ++i) {
        out[(to >> (16 * box_class) & 0xFFFF) + i] = word + (static_cast<uint32_t>(i) << 20);
      }
    } else {
      uint32_t group = 0;
#pragma unroll
      for (uint32_t c = 0; c < kClasses; ++c) {
        const int32_t size = kTileRows >> c;
        if ((rows & size) != 0) {
          const bool is_last = (rows & (size - 1)) == 0;
          out[to >> (16 * c) & 0xFFFF] =
              word + (group << 6) + c + (is_last ? static_cast<uint32_t>(shortage) << 2 : 0);
          group += static_cast<uint32_t>(size / kGroupRows);
        }
      }
    }
  }
};

__device__ inline uint64_t warp_prefix(uint64_t x) {  // inclusive
  const auto lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t below = __shfl_up_sync(~0U, x, static_cast<unsigned>(step));
    x += lane >= step ? below : 0;
  }
  return x;
}

__device__ inline int32_t sum_of_classes(uint64_t counts) {
  return static_cast<int32_t>((counts & 0xFFFF) + (counts >> 16 & 0xFFFF) +
                              (counts >> 32 & 0xFFFF) + (counts >> 48));
}

// One warp counts the pieces of a list. `tile_at(i)` is the tile of place i, or -1 for none.
template <bool kRaster, class TileAt>
__device__ uint64_t count_pieces(const Walk& w, int32_t places, const TileAt& tile_at) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  uint64_t mine = 0;
  for (int32_t first = 0; first < places; first += 32) {
    const int32_t tile = tile_at(first + lane);
    mine += tile >= 0 ? TilePieces<kRaster>(w, tile).counts() : 0;
  }
  return __shfl_sync(~0U, warp_prefix(mine), 31);
}

// One warp writes them, class by class.
template <bool kRaster, class TileAt>
__device__ void write_pieces(
    const Walk& w, int32_t places, const TileAt& tile_at, uint64_t counts, Piece* out) {
  if (counts == 0) {
    if (threadIdx.x % 32 == 0) {
      *out = kRaster ? kEmptyRaster : kEmptyTiled;
    }
    return;
  }
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  uint64_t to = (counts << 16) + (counts << 32) + (counts << 48);  // where each class starts
  for (int32_t first = 0; first < places; first += 32) {
    const int32_t tile = tile_at(first + lane);
    const TilePieces<kRaster> pieces(w, max(tile, 0));
    const uint64_t mine = tile >= 0 ? pieces.counts() : 0;
    const uint64_t prefix = warp_prefix(mine);
    if (tile >= 0) {
      pieces.write(out, to + prefix - mine);
    }
    to += __shfl_sync(~0U, prefix, 31);
  }
}

}  // namespace fastwan::kernels::cuda::sm90
