// Schedule  Two kernels with the forward's frame: producer threads fill private rings, two consumer
//           warpgroups each own one tile of 64 rows. Every gradient has one writer that adds in a
//           fixed order: no atomics on floats, the same bits each time.
//             dq      owns a query tile, walks its list of key tiles: S, dP, dS, dq += dS K
//             dk, dv  owns a key tile, walks the query tiles that list it, all transposed:
//                     S^T, dP^T, dv += P^T dO, dk += dS^T Q
//           The transposed lists come from a bit matrix, so their order is that of the query tiles.
//           lse and delta travel with the query tiles; entries without a token hold +inf and 0,
//           whose weight is 0.
// Budget    D = 128, dq: rings 2 x 3 x 32 KB; Q, dO (64), dq (64), S and dP (64) in registers
//           dk, dv: rings 2 x 2 x 32 KB + own K and V 2 x 32 KB; dk, dv (128), S and dP (64)
//           232 registers a consumer thread, 40 a producer thread, no spills
#include "kernels/block_attention/block_attention_sm90.h"
#include "kernels/block_attention/sm90_launch.cuh"
#include "kernels/block_attention/sm90_ring.cuh"
#include "kernels/block_attention/sm90_rows.cuh"

namespace fastwan::kernels::cuda::sm90 {
namespace {

template <int kD, bool kRaster>
using QueryGrad = RingConfig<kD, 2, kD == 128 ? 3 : 6, kRaster>;
template <int kD, bool kRaster>
using KeyGrad = RingConfig<kD, 2, kD == 128 ? 2 : 4, kRaster, /*kStats=*/true>;

// Shared memory of the dk, dv kernel: each consumer's own K and V tile, the rings, the tiles'
// barriers.
template <class C>
struct OwnTiles {
  static constexpr uint32_t kTilesBytes = C::kConsumers * 2 * C::kTileBytes;
  static constexpr uint32_t kBytes = kTilesBytes + C::kBytes + C::kConsumers * 16;
  uint32_t key, value, full, empty;

  __device__ OwnTiles(uint32_t smem, int consumer) {
    const auto c = static_cast<uint32_t>(consumer);
    key = smem + c * 2 * C::kTileBytes;
    value = key + C::kTileBytes;
    full = smem + kTilesBytes + C::kBytes + c * 16;
    empty = full + 8;
  }
};
static_assert(OwnTiles<KeyGrad<128, true>>::kBytes <= kMaxSmemBytes &&
                  QueryGrad<128, true>::kBytes <= kMaxSmemBytes,
              "block_attention backward: more shared memory than a Hopper block has");

struct BackwardParams {
  FineBackwardArgs a;
  Walk walk;
  const float2* stats;  // [B, H, Nq*64]: lse in base 2, delta
  float scale_log2;
};

__device__ const uint32_t* row_words(const Tokens<const Bf16>& x,
                                     int64_t batch,
                                     int64_t token,
                                     int64_t head) {
  return reinterpret_cast<const uint32_t*>(x.data + batch * x.batch + token * x.token +
                                           head * x.head);
}

constexpr int kStatWarps = 8;

// delta and lse of every slot, one warp a slot.
template <int kD, bool kRaster>
__global__ void __launch_bounds__(kStatWarps * 32)
    stats_kernel(const __grid_constant__ FineBackwardArgs a,
                 const __grid_constant__ Walk w,
                 float2* stats) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kStatWarps + threadIdx.x / 32;
  if (at >= int64_t{w.items} * kTileRows) {
    return;
  }
  const auto r = static_cast<int32_t>(at % kTileRows);
  const auto item = static_cast<int32_t>(at / kTileRows);
  const int32_t tile = item % w.tiles, plane = item / w.tiles;
  int64_t token = int64_t{tile} * kTileRows + r;
  bool live = false;
  if constexpr (kRaster) {
    const GridTile g = grid_tile(w, tile);
    const int32_t x = r % 4, y = r / 4 % 4, t = r / 16;
    live = x < g.nx && y < g.ny && t < g.nt;
    token = (static_cast<int64_t>(g.t + t) * w.grid_y + g.y + y) * w.grid_x + g.x + x;
  } else {
    live = r < w.own_sizes[tile];
  }
  float delta = 0;
  if (live) {
    const uint32_t* out = row_words(a.out, plane / w.heads, token, plane % w.heads);
    const uint32_t* dout = row_words(a.dout, plane / w.heads, token, plane % w.heads);
#pragma unroll
    for (int i = 0; i < kD / 64; ++i) {
      const uint32_t x = __ldg(out + 32 * i + lane);
      const uint32_t y = __ldg(dout + 32 * i + lane);
      delta += __uint_as_float(x << 16) * __uint_as_float(y << 16) +
               __uint_as_float(x & 0xFFFF0000U) * __uint_as_float(y & 0xFFFF0000U);
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    delta += __shfl_xor_sync(~0U, delta, step);
  }
  if (lane == 0) {
    const float lse = live ? a.lse[at] : -INFINITY;
    if (live && a.dlse != nullptr) {
      delta -= a.dlse[at];
    }
    stats[at] = make_float2(lse == -INFINITY ? INFINITY : lse * kLog2E, delta);
  }
}

// A bit for each pair of a key tile and a query tile that lists it: [B, H, Nk, words].
__global__ void mark_kernel(BlockList list, FineDims d, int64_t words, uint32_t* marks) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = entry / d.K;
  if (row >= d.B * d.H * d.Nq || entry % d.K >= list.count[row]) {
    return;
  }
  const int64_t plane = row / d.Nq, query = row % d.Nq;
  atomicOr(marks + (plane * d.Nk + list.index[entry]) * words + query / 32, 1U << (query % 32));
}

constexpr int kPlanThreads = 1024;

// Pieces of the query tiles that list a key tile; one block for all key tiles of a batch and head.
template <bool kRaster>
__global__ void __launch_bounds__(kPlanThreads)
    plan_transposed_kernel(const __grid_constant__ Walk w,
                           const uint32_t* marks,
                           int32_t words,
                           int64_t plane_pitch,
                           Piece* pieces,
                           uint32_t* begin,
                           int32_t* count) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  const int64_t first_item = static_cast<int64_t>(blockIdx.x) * w.tiles;
  const int32_t places = words * 32;
  const auto listed = [&](int32_t tile) {
    const uint32_t* row = marks + (first_item + tile) * words;
    return [row](int32_t i) { return (row[i / 32] >> (i % 32) & 1) != 0 ? i : -1; };
  };
  for (int32_t tile = warp; tile < w.tiles; tile += kPlanThreads / 32) {
    const uint64_t counts = count_pieces<kRaster>(w, places, listed(tile));
    if (lane == 0) {
      count[first_item + tile] = max(1, sum_of_classes(counts));
    }
  }
  __syncthreads();
  if (warp == 0) {
    uint64_t end = static_cast<uint64_t>(blockIdx.x) * static_cast<uint64_t>(plane_pitch);
    for (int32_t tile = lane; tile - lane < w.tiles; tile += 32) {
      const auto mine = static_cast<uint64_t>(tile < w.tiles ? count[first_item + tile] : 0);
      const uint64_t prefix = warp_prefix(mine);
      if (tile < w.tiles) {
        begin[first_item + tile] = static_cast<uint32_t>(end + prefix - mine);
      }
      end += __shfl_sync(~0U, prefix, 31);
    }
  }
  __syncthreads();
  for (int32_t tile = warp; tile < w.tiles; tile += kPlanThreads / 32) {
    const uint64_t counts = count_pieces<kRaster>(w, places, listed(tile));
    write_pieces<kRaster>(w, places, listed(tile), counts, pieces + begin[first_item + tile]);
  }
}

template <class C>
__device__ void release(const Ring<C>& ring, uint32_t slot) {
  warp_arrive(ring.barrier(Barrier::kFirstEmpty, slot));
  warp_arrive(ring.barrier(Barrier::kSecondEmpty, slot));
}

// P = 2^(s scale - lse), then dS = P (dP - delta), each in the place of its input.
__device__ void to_weights(float& s, float scale_log2, float lse) {
  s = exp2_fast(fmaf(s, scale_log2, -lse));
}

template <class C>
__device__ void consume_dq(
    const BackwardParams& p, const Ring<C>& ring, int consumer, int32_t first, int32_t step) {
  RingPosition<C::kStages> at;
  for (int32_t item = first; item < p.walk.items; item += step) {
    OperandA q[C::kD / 16], dout[C::kD / 16];
    float2 stat[2];
    {
      const OwnRows<C> rows(p.walk, item);
      load_rows<C>(q, p.a.q, rows);
      load_rows<C>(dout, p.a.dout, rows);
      stat[0] = __ldg(p.stats + rows.stat(p.walk, 0));
      stat[1] = __ldg(p.stats + rows.stat(p.walk, 1));
    }
    float dq[C::kD / 2] = {};
    float s[32], dp[32];
    OperandA ds[4];
    for (bool more = true; more; at.advance()) {
      barrier_wait(ring.barrier(Barrier::kFirstFull, at.slot), at.round);
      barrier_wait(ring.barrier(Barrier::kSecondFull, at.slot), at.round);
      const SlotInfo info = ring.read_info(at.slot);
      more = !info.last;
      if (info.valid != ~uint64_t{0}) {
        clear_invalid<C>(ring.first(at.slot), info.valid);
        clear_invalid<C>(ring.second(at.slot), info.valid);
        rows_cleared(consumer);
      }
      wgmma_fence();
      issue_scores<C>(s, q, ring.first(at.slot));
      wgmma_commit();
      issue_scores<C>(dp, dout, ring.second(at.slot));
      wgmma_commit();
      wgmma_wait<1>();
      pin(s);
      hide_invalid(s, info.valid);
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        to_weights(s[i], p.scale_log2, stat[i / 2 % 2].x);
      }
      wgmma_wait<0>();
      pin(dp);
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        dp[i] = s[i] * (dp[i] - stat[i / 2 % 2].y);
      }
      pack_operand(ds, dp);
      pin(dq);
      wgmma_fence();
      issue_weighted<C>(dq, ds, ring.first(at.slot));
      wgmma_commit();
      wgmma_wait<0>();
      pin(dq);
      release(ring, at.slot);
    }
    int32_t again = item;  // addresses are computed anew: they need not stay in registers
    asm volatile("" : "+r"(again));
    store_rows<C>(dq, p.a.scale, p.a.dq, OwnRows<C>(p.walk, again));
  }
}

// A slot's rows without a token: zero rows, weight 0.
template <class C>
__device__ void clear_queries(const Ring<C>& ring, uint32_t slot, uint64_t valid, int consumer) {
  clear_invalid<C>(ring.first(slot), valid);
  clear_invalid<C>(ring.second(slot), valid);
  const auto row = threadIdx.x % kWarpgroupThreads;
  if (row < kTileRows && (valid >> row & 1) == 0) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(ring.stats(slot) + row * kStatBytes),
                 "f"(INFINITY), "f"(0.0F)
                 : "memory");
  }
  rows_cleared(consumer);
}

// lse and delta of the thread's two columns of 8-column group c.
__device__ float4 column_stats(uint32_t stats, int c) {
  float4 x{};
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(stats + (static_cast<uint32_t>(8 * c) + 2 * (threadIdx.x % 4)) * kStatBytes)
               : "memory");
  return x;
}

template <class C>
__device__ void consume_dkv(const BackwardParams& p,
                            const Ring<C>& ring,
                            const OwnTiles<C>& own,
                            int consumer,
                            int32_t first,
                            int32_t step) {
  RingPosition<C::kStages> at;
  uint32_t own_round = 0;
  for (int32_t item = first; item < p.walk.items; item += step) {
    float dk[C::kD / 2] = {}, dv[C::kD / 2] = {};
    float s[32], dp[32];
    OperandA weights[4], ds[4];
    barrier_wait(own.full, own_round);
    for (bool more = true; more; at.advance()) {
      barrier_wait(ring.barrier(Barrier::kFirstFull, at.slot), at.round);
      barrier_wait(ring.barrier(Barrier::kSecondFull, at.slot), at.round);
      const SlotInfo info = ring.read_info(at.slot);
      more = !info.last;
      if (info.valid != ~uint64_t{0}) {
        clear_queries(ring, at.slot, info.valid, consumer);
      }
      wgmma_fence();
      issue_scores<C>(s, own.key, ring.first(at.slot));
      wgmma_commit();
      issue_scores<C>(dp, own.value, ring.second(at.slot));
      wgmma_commit();
      wgmma_wait<1>();
      pin(s);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float4 stat = column_stats(ring.stats(at.slot), c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          to_weights(s[4 * c + i], p.scale_log2, i % 2 == 0 ? stat.x : stat.z);
        }
      }
      pack_operand(weights, s);
      wgmma_wait<0>();
      pin(dp);
#pragma unroll
      for (int c = 0; c < 8; ++c) {  // read again: delta would not fit beside the accumulators
        const float4 stat = column_stats(ring.stats(at.slot), c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          dp[4 * c + i] = s[4 * c + i] * (dp[4 * c + i] - (i % 2 == 0 ? stat.y : stat.w));
        }
      }
      pack_operand(ds, dp);
      pin(dv);
      pin(dk);
      wgmma_fence();
      issue_weighted<C>(dv, weights, ring.second(at.slot));
      issue_weighted<C>(dk, ds, ring.first(at.slot));
      wgmma_commit();
      wgmma_wait<0>();
      pin(dv);
      pin(dk);
      release(ring, at.slot);
    }
    warp_arrive(own.empty);
    own_round ^= 1;
    const OwnRows<C> rows(p.walk, item);
    store_rows<C>(dk, p.a.scale, p.a.dk, rows);
    store_rows<C>(dv, 1.0F, p.a.dv, rows);
  }
}

struct BackwardMaps {
  PairMaps others;
  CUtensorMap own_key, own_value;  // dk, dv only
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    dq_kernel(const __grid_constant__ PairMaps maps, const __grid_constant__ BackwardParams p) {
  extern __shared__ __align__(1024) uint8_t smem_bytes[];
  const uint32_t smem = shared_address(smem_bytes);
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread < C::kConsumers) {
    Ring<C>(smem, thread).init_barriers();
    barrier_init_fence();
  }
  __syncthreads();
  const auto blocks = static_cast<int32_t>(gridDim.x), block = static_cast<int32_t>(blockIdx.x);
  const int32_t step = blocks * C::kConsumers;
  if (thread < kWarpgroupThreads) {
    give_registers<C::kProducerRegisters>();
    const int producer = thread / 32;
    if (producer < C::kConsumers && thread % 32 == 0) {
      produce<C>(maps, p.walk, Ring<C>(smem, producer), nullptr, producer * blocks + block, step,
                 [](int32_t, int32_t, int32_t) {});
    }
  } else {
    take_registers<C::kConsumerRegisters>();
    const int consumer = thread / kWarpgroupThreads - 1;
    consume_dq<C>(p, Ring<C>(smem, consumer), consumer, consumer * blocks + block, step);
  }
}

// The producer's part of an item of dk, dv: its own K and V tile, whole.
template <class C>
__device__ void load_own(const BackwardMaps& maps,
                         const Walk& w,
                         const OwnTiles<C>& own,
                         int32_t item,
                         int32_t batch,
                         int32_t head) {
  const int32_t tile = item % w.tiles;
  uint32_t piece = static_cast<uint32_t>(tile * (kTileRows / kGroupRows)) << 6;
  if constexpr (C::kRaster) {
    const GridTile g = grid_tile(w, tile);
    piece = static_cast<uint32_t>(g.x / kTileSide << 2 | g.y / kTileSide << 11 | g.t << 20);
  }
  barrier_arrive_expect(own.full, 2 * C::kTileBytes);
  CopyTarget{own.key, own.full}.copy<C>(maps.own_key, piece, batch, head);
  CopyTarget{own.value, own.full}.copy<C>(maps.own_value, piece, batch, head);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    dkv_kernel(const __grid_constant__ BackwardMaps maps,
               const __grid_constant__ BackwardParams p) {
  extern __shared__ __align__(1024) uint8_t smem_bytes[];
  const uint32_t smem = shared_address(smem_bytes);
  const auto thread = static_cast<int>(threadIdx.x);
  const uint32_t rings = smem + OwnTiles<C>::kTilesBytes;
  if (thread < C::kConsumers) {
    Ring<C>(rings, thread).init_barriers();
    const OwnTiles<C> own(smem, thread);
    barrier_init(own.full, 1);
    barrier_init(own.empty, kWarpgroupWarps * kArrivingLanes);
    barrier_init_fence();
  }
  __syncthreads();
  const auto blocks = static_cast<int32_t>(gridDim.x), block = static_cast<int32_t>(blockIdx.x);
  const int32_t step = blocks * C::kConsumers;
  if (thread < kWarpgroupThreads) {
    give_registers<C::kProducerRegisters>();
    const int producer = thread / 32;
    if (producer < C::kConsumers && thread % 32 == 0) {
      const OwnTiles<C> own(smem, producer);
      uint32_t own_round = 1;
      produce<C>(maps.others, p.walk, Ring<C>(rings, producer), p.stats, producer * blocks + block,
                 step, [&](int32_t item, int32_t batch, int32_t head) {
                   barrier_wait(own.empty, own_round);
                   own_round ^= 1;
                   load_own<C>(maps, p.walk, own, item, batch, head);
                 });
    }
  } else {
    take_registers<C::kConsumerRegisters>();
    const int consumer = thread / kWarpgroupThreads - 1;
    consume_dkv<C>(p, Ring<C>(rings, consumer), OwnTiles<C>(smem, consumer), consumer,
                   consumer * blocks + block, step);
  }
}

// Sizes in elements of what stands in the workspace, in this order.
struct Sizes {
  int64_t stats, q_items, k_items, q_pieces, k_plane_pitch, k_pieces, marks, words;

  explicit Sizes(const FineBackwardArgs& a) {
    const int64_t planes = a.dims.B * a.dims.H;
    const int64_t most = pieces_of_tile(a.grid);
    q_items = planes * a.dims.Nq;
    k_items = planes * a.dims.Nk;
    stats = q_items * kTileRows;
    q_pieces = q_items * std::max<int64_t>(a.dims.K, 1) * most;
    k_plane_pitch = a.dims.Nq * std::min(a.dims.K, a.dims.Nk) * most + a.dims.Nk;
    k_pieces = planes * k_plane_pitch;
    words = (a.dims.Nq + 31) / 32;
    marks = k_items * words;
  }
};

struct Workspace {
  float2* stats;
  uint32_t* q_begin;
  int32_t* q_count;
  Piece* q_pieces;
  uint32_t* k_begin;
  int32_t* k_count;
  Piece* k_pieces;
  uint32_t* marks;

  Workspace(const Sizes& n, void* memory) {
    stats = static_cast<float2*>(memory);
    q_begin = reinterpret_cast<uint32_t*>(stats + n.stats);
    q_count = reinterpret_cast<int32_t*>(q_begin + n.q_items);
    q_pieces = reinterpret_cast<Piece*>(q_count + n.q_items);
    k_begin = q_pieces + n.q_pieces;
    k_count = reinterpret_cast<int32_t*>(k_begin + n.k_items);
    k_pieces = reinterpret_cast<Piece*>(k_count + n.k_items);
    marks = k_pieces + n.k_pieces;
  }
};

unsigned blocks_for(int64_t work, int64_t a_block) {
  return static_cast<unsigned>((work + a_block - 1) / a_block);
}

template <int kD, bool kRaster>
void launch_dkv(const FineBackwardArgs& a,
                const Sizes& n,
                const Workspace& at,
                cudaStream_t stream) {
  using C = KeyGrad<kD, kRaster>;
  cudaMemsetAsync(at.marks, 0, static_cast<std::size_t>(n.marks) * sizeof(uint32_t), stream);
  constexpr int kThreads = 256;
  if (a.dims.K > 0) {
    mark_kernel<<<blocks_for(n.q_items * a.dims.K, kThreads), kThreads, 0, stream>>>(
        a.list, a.dims, n.words, at.marks);
  }
  const Walk w = make_walk(a.grid, a.dims, keys_meet_queries(a.dims, a.list),
                           {.pieces = at.k_pieces, .begin = at.k_begin, .count = at.k_count});
  plan_transposed_kernel<kRaster>
      <<<static_cast<unsigned>(a.dims.B * a.dims.H), kPlanThreads, 0, stream>>>(
          w, at.marks, static_cast<int32_t>(n.words), n.k_plane_pitch, at.k_pieces, at.k_begin,
          at.k_count);
  check_launch("block_attention backward (transposed lists)");
  const MapShape keys = map_shape(a.grid, a.dims, a.dims.Nk);
  const BackwardMaps maps{.others = pair_maps(a.q, a.dout, map_shape(a.grid, a.dims, a.dims.Nq)),
                          .own_key = piece_map(a.k, keys, 0),
                          .own_value = piece_map(a.v, keys, 0)};
  launch_persistent(
      dkv_kernel<C>, C::kThreads, OwnTiles<C>::kBytes, stream, maps,
      BackwardParams{.a = a, .walk = w, .stats = at.stats, .scale_log2 = a.scale * kLog2E});
  check_launch("block_attention backward (dk, dv)");
}

template <int kD, bool kRaster>
void launch(const FineBackwardArgs& a, void* memory, cudaStream_t stream) {
  const Sizes n(a);
  const Workspace at(n, memory);
  const PieceLists lists{.pieces = at.q_pieces, .begin = at.q_begin, .count = at.q_count};
  const Walk w = make_walk(a.grid, a.dims, queries_meet_keys(a.dims, a.list), lists);
  stats_kernel<kD, kRaster>
      <<<blocks_for(n.stats, kStatWarps), kStatWarps * 32, 0, stream>>>(a, w, at.stats);
  launch_plan<kRaster>({.walk = w, .list = a.list, .K = a.dims.K, .pitch = n.q_pieces / n.q_items},
                       lists, stream);
  check_launch("block_attention backward (lists)");
  using C = QueryGrad<kD, kRaster>;
  launch_persistent(
      dq_kernel<C>, C::kThreads, C::kBytes, stream,
      pair_maps(a.k, a.v, map_shape(a.grid, a.dims, a.dims.Nk)),
      BackwardParams{.a = a, .walk = w, .stats = at.stats, .scale_log2 = a.scale * kLog2E});
  check_launch("block_attention backward (dq)");
  launch_dkv<kD, kRaster>(a, n, at, stream);
}

}  // namespace

int64_t workspace_bytes(const FineBackwardArgs& a) {
  const Sizes n(a);
  return n.stats * int64_t{sizeof(float2)} +
         (2 * n.q_items + 2 * n.k_items + n.q_pieces + n.k_pieces + n.marks) *
             int64_t{sizeof(uint32_t)};
}

void block_attention_backward(const FineBackwardArgs& a, void* workspace, void* stream) {
  with_instance(a.dims, a.grid, [&]<int kD, bool kRaster>() {
    launch<kD, kRaster>(a, workspace, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace fastwan::kernels::cuda::sm90
