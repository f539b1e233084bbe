// Schedule  Each of three consumer warpgroups owns one query tile at a time and a private ring of
// key and
//           value tiles, filled by its own producer thread. A consumer multiplies, takes
//           exponentials and multiplies again; the three drift apart and fill each other's gaps, so
//           that the tensor cores and the L2 cache stay busy without any barrier between consumers.
//           A small kernel first turns the lists of key tiles into lists of pieces, so that ragged
//           tiles fill slots of 64 keys together and cost what they hold.
// Budget    D = 128: rings 3 x 2 slots x (K 16 KB + V 16 KB) = 192 KB. Q (32), O (64), scores (32)
// and
//           their weights in registers: 160 a consumer thread, 32 a producer thread, no spills
#include "kernels/block_attention/block_attention_sm90.h"
#include "kernels/block_attention/sm90_launch.cuh"
#include "kernels/block_attention/sm90_ring.cuh"
#include "kernels/block_attention/sm90_rows.cuh"

namespace fastwan::kernels::cuda::sm90 {
namespace {

template <int kD, bool kRaster>
using Forward = RingConfig<kD, 3, kD == 128 ? 2 : 4, kRaster>;
static_assert(Forward<128, true>::kTilesBytes == 192 * 1024,
              "block_attention: the budget in the header comment is stale");
static_assert(Forward<128, true>::kBytes <= kMaxSmemBytes &&
                  Forward<64, true>::kBytes <= kMaxSmemBytes,
              "block_attention: more shared memory than a Hopper block has");

struct ForwardParams {
  FineArgs a;
  Walk walk;
  float scale_log2;
};

__device__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}

__device__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}

// Online softmax in base 2. The reference of a row follows its maximum only when that grew by more
// than a factor 2^8: weights stay below 2^8, sums far from overflow, and the accumulator is seldom
// rescaled.
struct Softmax {
  static constexpr float kSlack = 8;
  float scale_log2;
  float top[2] = {-INFINITY, -INFINITY};  // raw score the weights refer to
  float sum[2] = {0, 0};                  // this thread's columns
  float factor[2] = {1, 1};               // for what was accumulated before a move

  __device__ explicit Softmax(float scale) : scale_log2(scale) {}

  // 0 while no key was seen: exp2(-inf - 0) is 0, -inf + inf would be NaN.
  __device__ float base(float top_score) const {
    return top_score == -INFINITY ? 0.0F : top_score * scale_log2;
  }

  // Scores to weights; says whether the reference moved (the same for all lanes of the warp).
  __device__ bool weigh(float (&s)[32]) {
    float high[2] = {s[0], s[2]};
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      high[0] = fmaxf(high[0], fmaxf(s[4 * c], s[4 * c + 1]));
      high[1] = fmaxf(high[1], fmaxf(s[4 * c + 2], s[4 * c + 3]));
    }
    const float slack = kSlack / scale_log2;
    const bool moved = __any_sync(~0U, high[0] > top[0] + slack || high[1] > top[1] + slack) != 0;
    if (moved) {
      move(high);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float shift = -base(top[i]);
      float part[2] = {0, 0};
#pragma unroll
      for (int c = 0; c < 8; ++c) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[4 * c + 2 * i + e];
          x = exp2_fast(fmaf(x, scale_log2, shift));
          part[e] += x;
        }
      }
      sum[i] += part[0] + part[1];
    }
    return moved;
  }

  __device__ void move(const float (&high)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float next = fmaxf(top[i], quad_max(high[i]));
      factor[i] = top[i] == -INFINITY ? 0.0F : exp2_fast(base(top[i]) - base(next));
      sum[i] *= factor[i];
      top[i] = next;
    }
  }
};

template <int n>
__device__ void rescale(float (&o)[n], const float (&factor)[2]) {
#pragma unroll
  for (int c = 0; c < n / 4; ++c) {
    o[4 * c] *= factor[0];
    o[4 * c + 1] *= factor[0];
    o[4 * c + 2] *= factor[1];
    o[4 * c + 3] *= factor[1];
  }
}

// bf16(bf16(coarse * gate) + fine), two values at a time.
__device__ uint32_t add_gated(uint32_t fine, uint32_t gate, uint32_t coarse) {
  const auto pair = [](uint32_t x) { return *reinterpret_cast<const __nv_bfloat162*>(&x); };
  const __nv_bfloat162 sum = __hadd2_rn(__hmul2_rn(pair(coarse), pair(gate)), pair(fine));
  return *reinterpret_cast<const uint32_t*>(&sum);
}

// This thread's share of a row of the gate or of the coarse output, fetched at once: one latency a
// row.
template <class C>
struct RowShare {
  uint4 x[C::kD / 32];

  __device__ void fetch(const Bf16* row) {
    const auto* from = reinterpret_cast<const uint4*>(row + 8 * (threadIdx.x % 4));
#pragma unroll
    for (int n = 0; n < C::kD / 32; ++n) {
      x[n] = __ldg(from + 4 * n);
    }
  }
};

__device__ uint4 add_gated(uint4 x, uint4 gate, uint4 coarse) {
  return make_uint4(add_gated(x.x, gate.x, coarse.x), add_gated(x.y, gate.y, coarse.y),
                    add_gated(x.z, gate.z, coarse.z), add_gated(x.w, gate.w, coarse.w));
}

template <class C>
__device__ void store_output(const float (&o)[C::kD / 2],
                             const Softmax& m,
                             const ForwardParams& p,
                             const OwnRows<C>& rows) {
  const bool is_gated = p.a.gate.data != nullptr;
  RowShare<C> coarse{}, gate{};
  if (is_gated) {
    const int64_t mean =
        (int64_t{rows.batch} * p.walk.tiles + rows.tile) * p.walk.heads + rows.head;
    coarse.fetch(p.a.coarse + mean * C::kD);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool writes = rows.live[i] || !C::kRaster;
    if (is_gated && rows.live[i]) {
      gate.fetch(rows.at(p.a.gate, i));
    }
    const float sum = quad_sum(m.sum[i]);
    if (p.a.lse != nullptr && writes && threadIdx.x % 4 == 0) {
      p.a.lse[rows.stat(p.walk, i)] =
          rows.live[i] ? (m.base(m.top[i]) + log2f(sum)) * kLn2 : -INFINITY;
    }
    const float inverse = sum > 0 ? 1.0F / sum : 0.0F;
    for_each_piece<C>(o, i, inverse, [&](int quarter, int32_t column, uint4 x) {
      if (!writes) {
        return;
      }
      if (!rows.live[i]) {
        x = make_uint4(0, 0, 0, 0);
      } else if (is_gated) {
        x = add_gated(x, gate.x[quarter], coarse.x[quarter]);
      }
      *reinterpret_cast<uint4*>(rows.at(p.a.out, i) + column) = x;
    });
  }
}

template <class C>
__device__ void consume(
    const ForwardParams& p, const Ring<C>& ring, int consumer, int32_t first, int32_t step) {
  RingPosition<C::kStages> at;
  for (int32_t item = first; item < p.walk.items; item += step) {
    OperandA q[C::kD / 16];
    load_rows<C>(q, p.a.q, OwnRows<C>(p.walk, item));
    float o[C::kD / 2] = {};
    float s[32];
    OperandA weights[4];
    Softmax softmax(p.scale_log2);
    for (bool more = true; more; at.advance()) {
      barrier_wait(ring.barrier(Barrier::kFirstFull, at.slot), at.round);
      const SlotInfo info = ring.read_info(at.slot);
      more = !info.last;
      wgmma_fence();
      issue_scores<C>(s, q, ring.first(at.slot));
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
      warp_arrive(ring.barrier(Barrier::kFirstEmpty, at.slot));
      hide_invalid(s, info.valid);
      if (softmax.weigh(s)) {
        rescale(o, softmax.factor);
      }
      pack_operand(weights, s);
      barrier_wait(ring.barrier(Barrier::kSecondFull, at.slot), at.round);
      if (info.valid != ~uint64_t{0}) {
        clear_invalid<C>(ring.second(at.slot), info.valid);
        rows_cleared(consumer);
      }
      pin(o);
      wgmma_fence();
      issue_weighted<C>(o, weights, ring.second(at.slot));
      wgmma_commit();
      wgmma_wait<0>();
      pin(o);
      warp_arrive(ring.barrier(Barrier::kSecondEmpty, at.slot));
    }
    int32_t again = item;  // addresses are computed anew: they need not stay in registers
    asm volatile("" : "+r"(again));
    store_output<C>(o, softmax, p, OwnRows<C>(p.walk, again));
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    forward_kernel(const __grid_constant__ PairMaps maps, const __grid_constant__ ForwardParams p) {
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
    consume<C>(p, Ring<C>(smem, consumer), consumer, consumer * blocks + block, step);
  }
}

int64_t num_items(const FineArgs& a) {
  return a.dims.B * a.dims.H * a.dims.Nq;
}

int64_t piece_pitch(const FineArgs& a) {
  return std::max<int64_t>(a.dims.K, 1) * pieces_of_tile(a.grid);
}

PieceLists split(const FineArgs& a, void* workspace) {
  auto* begin = static_cast<uint32_t*>(workspace);
  auto* count = reinterpret_cast<int32_t*>(begin + num_items(a));
  return {.pieces = reinterpret_cast<Piece*>(count + num_items(a)), .begin = begin, .count = count};
}

template <int kD, bool kRaster>
void launch(const FineArgs& a, const PieceLists& workspace, cudaStream_t stream) {
  using C = Forward<kD, kRaster>;
  const Walk w = make_walk(a.grid, a.dims, queries_meet_keys(a.dims, a.list), workspace);
  launch_plan<kRaster>({.walk = w, .list = a.list, .K = a.dims.K, .pitch = piece_pitch(a)},
                       workspace, stream);
  check_launch("block_attention (lists)");
  launch_persistent(forward_kernel<C>, C::kThreads, C::kBytes, stream,
                    pair_maps(a.k, a.v, map_shape(a.grid, a.dims, a.dims.Nk)),
                    ForwardParams{.a = a, .walk = w, .scale_log2 = a.scale * kLog2E});
  check_launch("block_attention");
}

}  // namespace

FineArgs fine_args(const BlockAttentionArgs<Bf16>& args) {
  const BlockAttentionDims& d = args.dims;
  return {.q = args.q,
          .k = args.k,
          .v = args.v,
          .gate = {},
          .coarse = nullptr,
          .out = args.out,
          .lse = args.lse,
          .list = args.list,
          .grid = {0, 0, 0},
          .dims = {d.B, d.H, d.Nq, d.Nk, d.D, d.K},
          .scale = static_cast<float>(args.scale)};
}

int64_t workspace_bytes(const FineArgs& a) {
  return num_items(a) * (piece_pitch(a) + 2) * int64_t{sizeof(Piece)};
}

void block_attention(const FineArgs& a, void* workspace, void* stream) {
  const PieceLists lists = split(a, workspace);
  with_instance(a.dims, a.grid, [&]<int kD, bool kRaster>() {
    launch<kD, kRaster>(a, lists, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace fastwan::kernels::cuda::sm90
