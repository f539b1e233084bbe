// Rings of tiles in shared memory: one for each consumer warpgroup, filled by one producer thread.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/block_attention/sm90_pieces.cuh"
#include "kernels/common/hopper/mbarrier.h"
#include "kernels/common/hopper/roles.h"
#include "kernels/common/hopper/tma.h"

namespace fastwan::kernels::cuda::sm90 {

using namespace hopper;

constexpr int kColumns = 64;  // of one 128-byte row in shared memory
constexpr uint32_t kHalfBytes = kTileRows * kColumns * 2;
constexpr uint32_t kGroupBytes = kGroupRows * kColumns * 2;
constexpr uint32_t kStatBytes = 8;  // two floats a query: backward only
constexpr uint32_t kMaxSmemBytes = 227 * 1024;

// Maps of the two tensors whose tiles travel together, by class of piece.
struct PairMaps {
  CUtensorMap first[kClasses], second[kClasses];
};

enum class Barrier : uint32_t { kFirstFull, kFirstEmpty, kSecondFull, kSecondEmpty };

// What stands in shared memory beside each slot.
struct SlotControl {
  uint64_t valid;  // a bit for each row that holds a token
  uint64_t last;   // 1: the item's last slot
  uint64_t barriers[4];
};

struct SlotInfo {
  uint64_t valid;
  bool last;
};

// kD head size; kStats: two floats a row travel with the second tile.
template <int kD_, int kConsumers_, int kStages_, bool kRaster_, bool kStats_ = false>
struct RingConfig {
  static constexpr int kD = kD_;
  static constexpr int kConsumers = kConsumers_;
  static constexpr int kStages = kStages_;
  static constexpr bool kRaster = kRaster_;
  static constexpr bool kStats = kStats_;
  static constexpr int kHalves = kD / kColumns;
  static constexpr uint32_t kTileBytes = kHalves * kHalfBytes;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroupThreads;
  // 64 K registers: 3 x 128 x 160 + 128 x 32, or 2 x 128 x 232 + 128 x 40.
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 232;
  static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40;
  static constexpr int kSlots = kConsumers * kStages;
  static constexpr uint32_t kTilesBytes = kSlots * 2 * kTileBytes;
  static constexpr uint32_t kStatsBytes = kStats ? kSlots * kTileRows * kStatBytes : 0;
  static constexpr uint32_t kBytes = kTilesBytes + kStatsBytes + kSlots * sizeof(SlotControl);
};

template <class C>
struct Ring {
  uint32_t tiles, stats_base, controls;

  __device__ Ring(uint32_t smem, int consumer) {
    const uint32_t slot = static_cast<uint32_t>(consumer) * C::kStages;
    tiles = smem + slot * 2 * C::kTileBytes;
    stats_base = smem + C::kTilesBytes + slot * kTileRows * kStatBytes;
    controls = smem + C::kTilesBytes + C::kStatsBytes + slot * uint32_t{sizeof(SlotControl)};
  }
  __device__ uint32_t first(uint32_t slot) const { return tiles + slot * 2 * C::kTileBytes; }
  __device__ uint32_t second(uint32_t slot) const { return first(slot) + C::kTileBytes; }
  __device__ uint32_t stats(uint32_t slot) const {
    return stats_base + slot * kTileRows * kStatBytes;
  }
  __device__ uint32_t control(uint32_t slot) const {
    return controls + slot * uint32_t{sizeof(SlotControl)};
  }
  __device__ uint32_t barrier(Barrier which, uint32_t slot) const {
    return control(slot) + 16 + static_cast<uint32_t>(which) * 8;
  }

  __device__ void init_barriers() const {
    for (uint32_t slot = 0; slot < C::kStages; ++slot) {
      barrier_init(barrier(Barrier::kFirstFull, slot), 1);
      barrier_init(barrier(Barrier::kSecondFull, slot), 1);
      barrier_init(barrier(Barrier::kFirstEmpty, slot), kWarpgroupWarps * kArrivingLanes);
      barrier_init(barrier(Barrier::kSecondEmpty, slot), kWarpgroupWarps * kArrivingLanes);
    }
  }

  // The valid bits of a piece's rows. A slot's first piece clears the rest.
  __device__ void write_valid(uint32_t slot,
                              uint32_t first_row,
                              uint64_t valid,
                              uint32_t piece_class) const {
    const uint32_t at = control(slot) + first_row / 8;
    const auto low = static_cast<uint32_t>(valid);
    if (first_row == 0) {
      asm volatile("st.shared.b64 [%0], %1;" ::"r"(at), "l"(valid) : "memory");
    } else if (piece_class == 1) {
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(low) : "memory");
    } else if (piece_class == 2) {
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(at), "h"(static_cast<uint16_t>(low)) : "memory");
    } else {
      asm volatile("st.shared.b8 [%0], %1;" ::"r"(at), "r"(low) : "memory");
    }
  }
  __device__ void write_last(uint32_t slot, bool last) const {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(control(slot) + 8), "r"(uint32_t{last})
                 : "memory");
  }
  __device__ SlotInfo read_info(uint32_t slot) const {
    uint32_t low = 0, high = 0, last = 0, unused = 0;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(low), "=r"(high), "=r"(last), "=r"(unused)
                 : "r"(control(slot))
                 : "memory");
    return {low | (uint64_t{high} << 32), last != 0};
  }
};

struct CopyTarget {
  uint32_t to, barrier;

  template <class C>
  __device__ void copy(const CUtensorMap& map, Piece piece, int32_t batch, int32_t head) const {
#pragma unroll
    for (int32_t half = 0; half < C::kHalves; ++half) {
      const uint32_t place = to + static_cast<uint32_t>(half) * kHalfBytes;
      if constexpr (C::kRaster) {
        const Box5 box{head * C::kD + half * kColumns,
                       static_cast<int32_t>(piece >> 2 & 511) * kTileSide,
                       static_cast<int32_t>(piece >> 11 & 511) * kTileSide,
                       static_cast<int32_t>(piece >> 20), batch};
        tensor_load(place, map, box, barrier);
      } else {
        const Box4 box{half * kColumns, static_cast<int32_t>(piece >> 6) * kGroupRows, head, batch};
        tensor_load(place, map, box, barrier);
      }
    }
  }
};

// The stats of a piece's rows, which lie in tile order: 64 a tile, in raster order each at its
// place in the 4x4x4 box.
template <class C>
__device__ void copy_stats(
    uint32_t to, const float2* plane, const Walk& w, Piece piece, uint32_t barrier) {
  const uint32_t piece_class = piece & 3;
  const uint32_t rows = static_cast<uint32_t>(kTileRows) >> piece_class;
  if constexpr (C::kRaster) {
    const uint32_t x = piece >> 2 & 511, y = piece >> 11 & 511, t = piece >> 20;
    if (x == 511) {
      return;
    }
    const uint32_t tile =
        (t / kTileSide * static_cast<uint32_t>(w.tiles_y) + y) * static_cast<uint32_t>(w.tiles_x) +
        x;
    const float2* from = plane + tile * kTileRows + t % kTileSide * 16;
    if (piece_class == 1) {  // two lines of each plane
      for (uint32_t i = 0; i < 4; ++i) {
        bulk_load(to + i * 8 * kStatBytes, from + i * 16, 8 * kStatBytes, barrier);
      }
    } else {
      bulk_load(to, from, rows * kStatBytes, barrier);
    }
  } else {
    bulk_load(to, plane + (piece >> 6) * kGroupRows, rows * kStatBytes, barrier);
  }
}

// Fills one consumer's ring; a single thread. `before_item(item, batch, head)` runs first for each
// item.
template <class C, class BeforeItem>
__device__ void produce(const PairMaps& maps,
                        const Walk& w,
                        const Ring<C>& ring,
                        const float2* stats,
                        int32_t first_item,
                        int32_t step,
                        const BeforeItem& before_item) {
  RingPosition<C::kStages> at;
  for (int32_t item = first_item; item < w.items; item += step) {
    const int32_t plane = item / w.tiles;
    const int32_t batch = plane / w.heads;
    const int32_t head = plane % w.heads;
    before_item(item, batch, head);
    uint32_t next = w.begin[item];
    const uint32_t end = next + static_cast<uint32_t>(w.count[item]);
    uint32_t filled = 0;  // rows in the slot at hand
    Piece piece = w.pieces[next];
    do {
      const Piece following = ++next < end ? w.pieces[next] : 0;
      const uint32_t rows = static_cast<uint32_t>(kTileRows) >> (piece & 3);
      const uint32_t bytes = rows * (kColumns * 2 * C::kHalves);
      const uint32_t place = filled * (kColumns * 2);
      const bool closes = filled + rows == kTileRows || next == end;
      const CopyTarget one{ring.first(at.slot) + place, ring.barrier(Barrier::kFirstFull, at.slot)};
      if (filled == 0) {
        barrier_wait(ring.barrier(Barrier::kFirstEmpty, at.slot), at.round ^ 1);
      }
      ring.write_valid(at.slot, filled, valid_rows<C::kRaster>(w, piece), piece & 3);
      barrier_expect(one.barrier, bytes);
      one.copy<C>(maps.first[piece & 3], piece, batch, head);
      if (closes) {
        ring.write_last(at.slot, next == end);
        barrier_arrive(one.barrier);
      }
      const CopyTarget two{ring.second(at.slot) + place,
                           ring.barrier(Barrier::kSecondFull, at.slot)};
      if (filled == 0) {
        barrier_wait(ring.barrier(Barrier::kSecondEmpty, at.slot), at.round ^ 1);
      }
      barrier_expect(two.barrier, bytes);
      two.copy<C>(maps.second[piece & 3], piece, batch, head);
      if constexpr (C::kStats) {
        const bool is_empty = C::kRaster && piece == kEmptyRaster;
        barrier_expect(two.barrier, is_empty ? 0 : rows * kStatBytes);
        copy_stats<C>(ring.stats(at.slot) + filled * kStatBytes,
                      stats + int64_t{plane} * w.other_tiles * kTileRows, w, piece, two.barrier);
      }
      filled += rows;
      if (closes) {
        barrier_arrive(two.barrier);
        filled = 0;
        at.advance();
      }
      piece = following;
    } while (next != end);
  }
}

}  // namespace fastwan::kernels::cuda::sm90
