// What a consumer warpgroup does with its own 64 rows: addresses, loads, products, masks, stores.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

#include "kernels/block_attention/block_attention_sm90.h"
#include "kernels/block_attention/sm90_ring.cuh"
#include "kernels/common/hopper/wgmma.h"

namespace fastwan::kernels::cuda::sm90 {

constexpr float kLog2E = 1.44269504088896F;
constexpr float kLn2 = 0.693147180559945F;

// Two rows of a thread: r and r + 8 of its warp's 16. Row r is slot r of the tile; in raster order
// the token at x = r % 4, y = r / 4 % 4, t = r / 16 of the tile's box.
template <class C>
struct OwnRows {
  int32_t batch, head, tile, plane;
  int64_t token[2];
  int32_t slot[2];
  bool live[2];

  __device__ OwnRows(const Walk& w, int32_t item) {
    const auto thread = static_cast<int32_t>(threadIdx.x % kWarpgroupThreads);
    plane = item / w.tiles;
    tile = item % w.tiles;
    batch = plane / w.heads;
    head = plane % w.heads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t r = thread / 32 * 16 + thread % 32 / 4 + 8 * i;
      slot[i] = tile * kTileRows + r;
      if constexpr (C::kRaster) {
        const GridTile g = grid_tile(w, tile);
        const int32_t x = r % 4, y = r / 4 % 4, t = r / 16;
        live[i] = x < g.nx && y < g.ny && t < g.nt;
        token[i] = (static_cast<int64_t>(g.t + t) * w.grid_y + g.y + y) * w.grid_x + g.x + x;
      } else {
        live[i] = r < w.own_sizes[tile];
        token[i] = slot[i];
      }
    }
  }
  template <class Element>
  __device__ Element* at(const Tokens<Element>& x, int i) const {
    return x.data + batch * x.batch + token[i] * x.token + head * x.head;
  }
  __device__ int64_t stat(const Walk& w, int i) const {
    return int64_t{plane} * w.tiles * kTileRows + slot[i];
  }
};

// The thread's share of 64 rows as the left operand of a product; rows without a token are zero.
template <class C>
__device__ void load_rows(OperandA (&a)[C::kD / 16],
                          const Tokens<const Bf16>& x,
                          const OwnRows<C>& rows) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto* row = reinterpret_cast<const uint32_t*>(rows.at(x, i) + 2 * (lane % 4));
#pragma unroll
    for (int step = 0; step < C::kD / 16; ++step) {
      a[step].x[i] = rows.live[i] ? __ldg(row + 8 * step) : 0;
      a[step].x[i + 2] = rows.live[i] ? __ldg(row + 8 * step + 4) : 0;
    }
  }
}

// Where 16 columns of a tile's rows start, for an operand contracted over them.
__device__ inline uint32_t columns_at(uint32_t tile, int step) {
  return tile + static_cast<uint32_t>(step / 4) * kHalfBytes + static_cast<uint32_t>(step % 4) * 32;
}

// s = a tile^T: 64 x 64. Issued only.
template <class C>
__device__ void issue_scores(float (&s)[32], const OperandA (&a)[C::kD / 16], uint32_t tile) {
  wgmma_set<Major::kK>(s, a[0], swizzled_descriptor(tile));
#pragma unroll
  for (int step = 1; step < C::kD / 16; ++step) {
    wgmma_add<Major::kK>(s, a[step], swizzled_descriptor(columns_at(tile, step)));
  }
}

// The same with the left operand in shared memory.
template <class C>
__device__ void issue_scores(float (&s)[32], uint32_t own, uint32_t tile) {
  wgmma_set(s, swizzled_descriptor(own), swizzled_descriptor(tile));
#pragma unroll
  for (int step = 1; step < C::kD / 16; ++step) {
    wgmma_add(s, swizzled_descriptor(columns_at(own, step)),
              swizzled_descriptor(columns_at(tile, step)));
  }
}

// o += w tile: 64 x D. Issued only.
template <class C>
__device__ void issue_weighted(float (&o)[C::kD / 2], const OperandA (&w)[4], uint32_t tile) {
#pragma unroll
  for (int step = 0; step < kTileRows / 16; ++step) {
    const uint32_t at = tile + static_cast<uint32_t>(step) * 2 * kGroupBytes;
    wgmma_add<Major::kN>(o, w[step], swizzled_descriptor(at, kHalfBytes));
  }
}

__device__ inline float exp2_fast(float x) {
  float y = 0;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t packed = 0;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// An accumulator of 64 x 64 as left operand of the next product.
__device__ inline void pack_operand(OperandA (&w)[4], const float (&s)[32]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[step].x[i] = pack_bf16(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
    }
  }
}

// Columns that hold no token become -inf.
__device__ inline void hide_invalid(float (&s)[32], uint64_t valid) {
  if (valid == ~uint64_t{0}) {
    return;
  }
  const uint64_t mine = valid >> (2 * (threadIdx.x % 4));
#pragma unroll
  for (int c = 0; c < 8; ++c) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if ((mine >> (8 * c + e) & 1) == 0) {
        s[4 * c + e] = -INFINITY;
        s[4 * c + 2 + e] = -INFINITY;
      }
    }
  }
}

// Rows of a tile that hold no token become zero: weight 0 times NaN would be NaN. The caller makes
// the stores visible to the tensor cores (rows_cleared).
template <class C>
__device__ void clear_invalid(uint32_t tile, uint64_t valid) {
  const auto thread = static_cast<int32_t>(threadIdx.x % kWarpgroupThreads);
  const int32_t row = thread / 2;
  if ((valid >> row & 1) != 0) {
    return;
  }
  constexpr int kPieces = C::kHalves * 4;  // of 16 bytes: half of the row is this thread's
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int32_t piece = thread % 2 * kPieces + i;
    const uint32_t at = tile + static_cast<uint32_t>(piece / 8) * kHalfBytes +
                        static_cast<uint32_t>(row * 128 + piece % 8 * 16);
    asm volatile("st.shared.v4.b32 [%0], {0, 0, 0, 0};" ::"r"(at) : "memory");
  }
}

__device__ inline void rows_cleared(int consumer) {
  async_proxy_fence();
  warpgroup_sync(consumer + 1);
}

// Four lanes hold 2 columns of each of 4 column groups; afterwards each holds one group's 8
// columns.
__device__ inline void transpose_quad(uint32_t (&x)[4]) {
  const bool odd = (threadIdx.x & 1) != 0;
  const bool upper = (threadIdx.x & 2) != 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(~0U, odd ? x[i] : x[i + 1], 1);
    (odd ? x[i] : x[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(~0U, upper ? x[i] : x[i + 2], 2);
    (upper ? x[i] : x[i + 2]) = other;
  }
}

// Row i of an accumulator times a factor, as bf16: `write(column, 8 values)` for the columns this
// lane gets. All lanes of the warp take part.
template <class C, class Write>
__device__ void for_each_piece(const float (&o)[C::kD / 2],
                               int i,
                               float factor,
                               const Write& write) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int quarter = 0; quarter < C::kD / 32; ++quarter) {
    uint32_t x[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int at = 4 * (4 * quarter + c) + 2 * i;
      x[c] = pack_bf16(o[at] * factor, o[at + 1] * factor);
    }
    transpose_quad(x);
    write(quarter, 32 * quarter + 8 * (lane % 4), make_uint4(x[0], x[1], x[2], x[3]));
  }
}

// Stores an accumulator. Slots without a token become zero in tiled order; in raster order there
// are none.
template <class C>
__device__ void store_rows(const float (&o)[C::kD / 2],
                           float factor,
                           const Tokens<Bf16>& to,
                           const OwnRows<C>& rows) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    for_each_piece<C>(o, i, factor, [&](int, int32_t column, uint4 x) {
      if (rows.live[i] || !C::kRaster) {
        *reinterpret_cast<uint4*>(rows.at(to, i) + column) =
            rows.live[i] ? x : make_uint4(0, 0, 0, 0);
      }
    });
  }
}

}  // namespace fastwan::kernels::cuda::sm90
