// Schedule  One block of four warps owns a tile of 64 rows, 16 rows a warp, and walks its list;
// tiles
//           arrive by cp.async, forward one pair ahead.
//             forward  owns queries, walks K, V
//             dq       owns queries, walks K, V
//             dk, dv   owns keys (K, V stay in shared memory), walks Q, dO of the query tiles that
//             list it,
//                      found in ascending order in a bit matrix
//           Rows without a token arrive as zeros, so padding is never read.
// Budget    D = 128: forward Q 16 KB + two pairs of tiles 64 KB; dq and dk, dv: own pair + one pair
//           64 KB; at most 255 registers, no spills
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/block_attention/block_attention_mma.h"
#include "kernels/common/cuda_launch.h"

namespace fastwan::kernels::cuda::mma {
namespace {

constexpr int kRows = 64;
constexpr int kThreads = 128;
constexpr float kLog2E = 1.44269504088896F;
constexpr float kLn2 = 0.693147180559945F;

struct Bfloat {
  static __device__ uint32_t pack(float low, float high) {
    uint32_t x = 0;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
  }
  static __device__ float2 unpack(uint32_t x) {
    return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xFFFF0000U));
  }
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

struct Half {
  static __device__ uint32_t pack(float low, float high) {
    uint32_t x = 0;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
  }
  static __device__ float2 unpack(uint32_t x) {
    return __half22float2(*reinterpret_cast<const __half2*>(&x));
  }
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

template <int kD>
constexpr uint32_t kTileBytes = kRows* kD * 2;

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Rows of 2 D bytes; 16-byte chunks are permuted by the row, so that ldmatrix meets no bank twice.
template <int kD>
__device__ uint32_t chunk_at(uint32_t tile, int row, int chunk) {
  return tile + static_cast<uint32_t>(row * kD * 2 + ((chunk ^ (row & 7)) << 4));
}

struct Plane {
  int64_t batch, head;
};

// What a block owns: blocks count all tiles of all heads along x, whose limit is 2^31.
struct Owned {
  int64_t plane, tile;  // of batch and head; within the plane
  Plane at;

  __device__ Owned(const FineDims& d, int64_t tiles)
      : plane(blockIdx.x / tiles), tile(blockIdx.x % tiles), at{plane / d.H, plane % d.H} {}
};

template <int kD>
__device__ void load_tile(
    uint32_t to, const Tokens<const Bf16>& x, const Plane& at, int64_t tile, int size) {
  constexpr int kChunks = kD / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool live = row < size;
    const Bf16* from = x.data + at.batch * x.batch + at.head * x.head +
                       (live ? tile * kRows + row : tile * kRows) * x.token + chunk * 8;
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(chunk_at<kD>(to, row, chunk)),
        "l"(from), "r"(live ? 16 : 0)
        : "memory");
  }
}

__device__ void commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ void ldmatrix(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

__device__ void ldmatrix_transposed(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// This warp's 16 rows of a tile as left operand, 16 columns.
template <int kD>
__device__ void load_left(uint32_t (&a)[4], uint32_t tile, int step) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  ldmatrix(a, chunk_at<kD>(tile, warp * 16 + lane % 16, step * 2 + lane / 16));
}

// s += own other^T for rows `first` ... of the other tile: 16 x kN for each warp.
template <class F, int kD, int kN>
__device__ void multiply_scores(float (&s)[kN][4], uint32_t own, uint32_t other, int first = 0) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    uint32_t a[4];
    load_left<kD>(a, own, step);
#pragma unroll
    for (int n = 0; n < kN / 2; ++n) {
      uint32_t b[4];
      const int row = first + n * 16 + lane / 16 * 8 + lane % 8;
      ldmatrix(b, chunk_at<kD>(other, row, step * 2 + lane / 8 % 2));
      F::mma(s[2 * n], a, b[0], b[1]);
      F::mma(s[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// o += w tile, rows `first` ... of it: 16 x D for each warp.
template <class F, int kD, int kSteps>
__device__ void multiply_weighted(float (&o)[kD / 8][4],
                                  const uint32_t (&w)[kSteps][4],
                                  uint32_t tile,
                                  int first = 0) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int n = 0; n < kD / 16; ++n) {
      uint32_t b[4];
      ldmatrix_transposed(b, chunk_at<kD>(tile, first + step * 16 + lane % 16, n * 2 + lane / 16));
      F::mma(o[2 * n], w[step], b[0], b[1]);
      F::mma(o[2 * n + 1], w[step], b[2], b[3]);
    }
  }
}

template <class F, int kSteps>
__device__ void pack_left(uint32_t (&w)[kSteps][4], const float (&s)[2 * kSteps][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    w[step][0] = F::pack(s[2 * step][0], s[2 * step][1]);
    w[step][1] = F::pack(s[2 * step][2], s[2 * step][3]);
    w[step][2] = F::pack(s[2 * step + 1][0], s[2 * step + 1][1]);
    w[step][3] = F::pack(s[2 * step + 1][2], s[2 * step + 1][3]);
  }
}

// Rows r and r + 8 of the warp times a factor; slots without a token become zero.
template <class F, int kD>
__device__ void store(const float (&o)[kD / 8][4],
                      const float (&factor)[2],
                      const Tokens<Bf16>& to,
                      const Plane& at,
                      int64_t tile,
                      int size) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = warp * 16 + lane / 4 + 8 * i;
    auto* out = reinterpret_cast<uint32_t*>(to.data + at.batch * to.batch + at.head * to.head +
                                            (tile * kRows + row) * to.token);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      out[4 * n + lane % 4] =
          row < size ? F::pack(o[n][2 * i] * factor[i], o[n][2 * i + 1] * factor[i]) : 0;
    }
  }
}

__device__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}

__device__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}

__device__ void hide_beyond(float (&s)[8][4], int size) {
  if (size == kRows) {
    return;
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (8 * n + 2 * static_cast<int>(threadIdx.x % 4) + e % 2 >= size) {
        s[n][e] = -INFINITY;
      }
    }
  }
}

template <class F, int kD>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ FineArgs a) {
  extern __shared__ __align__(128) uint8_t smem_bytes[];
  const uint32_t own = shared_address(smem_bytes), ring = own + kTileBytes<kD>;
  const auto [plane, tile, at] = Owned(a.dims, a.dims.Nq);
  const int64_t row = plane * a.dims.Nq + tile;
  const int32_t* list = a.list.index + row * a.dims.K;
  const int count = a.list.count[row], size = a.list.q_sizes[tile];
  const auto load_pair = [&](int i) {
    const int32_t key = list[i];
    const uint32_t to = ring + static_cast<uint32_t>(i % 2) * 2 * kTileBytes<kD>;
    load_tile<kD>(to, a.k, at, key, a.list.kv_sizes[key]);
    load_tile<kD>(to + kTileBytes<kD>, a.v, at, key, a.list.kv_sizes[key]);
  };
  load_tile<kD>(own, a.q, at, tile, size);
  if (count > 0) {
    load_pair(0);
  }
  commit();
  float o[kD / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const float scale_log2 = a.scale * kLog2E;
  for (int i = 0; i < count; ++i) {
    if (i + 1 < count) {
      load_pair(i + 1);
    }
    commit();
    wait<1>();
    __syncthreads();
    const uint32_t keys = ring + static_cast<uint32_t>(i % 2) * 2 * kTileBytes<kD>;
    float s[8][4] = {};
    multiply_scores<F, kD>(s, own, keys);
    hide_beyond(s, a.list.kv_sizes[list[i]]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = top[r];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        high = fmaxf(high, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
      }
      high = quad_max(high);
      const float base = high == -INFINITY ? 0.0F : high * scale_log2;
      const float factor = top[r] == -INFINITY ? 0.0F : exp2f(top[r] * scale_log2 - base);
      top[r] = high;
      sum[r] *= factor;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        o[n][2 * r] *= factor;
        o[n][2 * r + 1] *= factor;
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          s[n][e] = exp2f(fmaf(s[n][e], scale_log2, -base));
          sum[r] += s[n][e];
        }
      }
    }
    uint32_t w[4][4];
    pack_left<F>(w, s);
    multiply_weighted<F, kD>(o, w, keys + kTileBytes<kD>);
    __syncthreads();
  }
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float total = quad_sum(sum[r]);
    inverse[r] = total > 0 ? 1.0F / total : 0.0F;
    const int slot = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4) + 8 * r;
    if (a.lse != nullptr && threadIdx.x % 4 == 0) {
      a.lse[row * kRows + slot] =
          slot < size && total > 0 ? top[r] * a.scale + log2f(total) * kLn2 : -INFINITY;
    }
  }
  store<F, kD>(o, inverse, a.out, at, tile, size);
}

// lse in base 2 and delta of every slot; +inf and 0 where no token or no key is, whose weight is 0.
template <class F, int kD>
__global__ void __launch_bounds__(256)
    stats_kernel(const __grid_constant__ FineBackwardArgs a, float2* stats) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  const int64_t slots = a.dims.Nq * kRows, plane = slot / slots, token = slot % slots;
  if (plane >= a.dims.B * a.dims.H) {
    return;
  }
  const bool live = token % kRows < a.list.q_sizes[token / kRows];
  const auto words = [&](const Tokens<const Bf16>& x) {
    return reinterpret_cast<const uint32_t*>(x.data + plane / a.dims.H * x.batch +
                                             plane % a.dims.H * x.head + token * x.token);
  };
  float delta = 0;
  for (int i = lane; live && i < kD / 2; i += 32) {
    const float2 x = F::unpack(words(a.out)[i]), y = F::unpack(words(a.dout)[i]);
    delta += x.x * y.x + x.y * y.y;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    delta += __shfl_xor_sync(~0U, delta, step);
  }
  if (lane == 0) {
    const float lse = live ? a.lse[slot] : -INFINITY;
    if (live && a.dlse != nullptr) {
      delta -= a.dlse[slot];
    }
    stats[slot] = make_float2(lse == -INFINITY ? INFINITY : lse * kLog2E, delta);
  }
}

template <class F, int kD>
__global__ void __launch_bounds__(kThreads, 1)
    dq_kernel(const __grid_constant__ FineBackwardArgs a, const float2* stats) {
  extern __shared__ __align__(128) uint8_t smem_bytes[];
  const uint32_t own_q = shared_address(smem_bytes), own_dout = own_q + kTileBytes<kD>;
  const uint32_t keys = own_dout + kTileBytes<kD>, values = keys + kTileBytes<kD>;
  const auto [plane, tile, at] = Owned(a.dims, a.dims.Nq);
  const int64_t row = plane * a.dims.Nq + tile;
  const int count = a.list.count[row], size = a.list.q_sizes[tile];
  load_tile<kD>(own_q, a.q, at, tile, size);
  load_tile<kD>(own_dout, a.dout, at, tile, size);
  float2 stat[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    stat[r] = stats[row * kRows + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r];
  }
  float dq[kD / 8][4] = {};
  for (int i = 0; i < count; ++i) {
    const int32_t key = a.list.index[row * a.dims.K + i];
    const int key_size = a.list.kv_sizes[key];
    load_tile<kD>(keys, a.k, at, key, key_size);
    load_tile<kD>(values, a.v, at, key, key_size);
    commit();
    wait<0>();
    __syncthreads();
    float s[8][4] = {}, dp[8][4] = {};
    multiply_scores<F, kD>(s, own_q, keys);
    multiply_scores<F, kD>(dp, own_dout, values);
    hide_beyond(s, key_size);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float weight = exp2f(fmaf(s[n][e], a.scale * kLog2E, -stat[e / 2].x));
        dp[n][e] = weight * (dp[n][e] - stat[e / 2].y);
      }
    }
    uint32_t ds[4][4];
    pack_left<F>(ds, dp);
    multiply_weighted<F, kD>(dq, ds, keys);
    __syncthreads();
  }
  wait<0>();
  store<F, kD>(dq, {a.scale, a.scale}, a.dq, at, tile, size);
}

__global__ void mark_kernel(BlockList list, FineDims d, int64_t words, uint32_t* marks) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = entry / d.K;
  if (row >= d.B * d.H * d.Nq || entry % d.K >= list.count[row]) {
    return;
  }
  const int64_t plane = row / d.Nq, query = row % d.Nq;
  atomicOr(marks + (plane * d.Nk + list.index[entry]) * words + query / 32, 1U << (query % 32));
}

template <class F, int kD>
__global__ void __launch_bounds__(kThreads, 1)
    dkv_kernel(const __grid_constant__ FineBackwardArgs a,
               const float2* stats,
               const uint32_t* marks,
               int32_t words) {
  extern __shared__ __align__(128) uint8_t smem_bytes[];
  const uint32_t own_k = shared_address(smem_bytes), own_v = own_k + kTileBytes<kD>;
  const uint32_t queries = own_v + kTileBytes<kD>, douts = queries + kTileBytes<kD>;
  auto* const tile_stats = reinterpret_cast<float2*>(smem_bytes + 4 * kTileBytes<kD>);
  const auto [plane, tile, at] = Owned(a.dims, a.dims.Nk);
  const uint32_t* listed = marks + (plane * a.dims.Nk + tile) * words;
  const int size = a.list.kv_sizes[tile];
  load_tile<kD>(own_k, a.k, at, tile, size);
  load_tile<kD>(own_v, a.v, at, tile, size);
  constexpr int kColumns = kD == 128 ? 32 : 64;  // queries at once: what registers allow
  float dk[kD / 8][4] = {}, dv[kD / 8][4] = {};
  for (int32_t word = 0; word < words; ++word) {
    for (uint32_t left = listed[word]; left != 0; left &= left - 1) {
      const int64_t query = word * 32 + __ffs(static_cast<int>(left)) - 1;
      load_tile<kD>(queries, a.q, at, query, a.list.q_sizes[query]);
      load_tile<kD>(douts, a.dout, at, query, a.list.q_sizes[query]);
      if (threadIdx.x < kRows) {
        tile_stats[threadIdx.x] = stats[(plane * a.dims.Nq + query) * kRows + threadIdx.x];
      }
      commit();
      wait<0>();
      __syncthreads();
#pragma unroll 1
      for (int first = 0; first < kRows; first += kColumns) {  // not unrolled: registers
        const auto stat_at = [&](int n, int e) {
          return tile_stats[first + 8 * n + 2 * (threadIdx.x % 4) + e % 2];
        };
        uint32_t w[kColumns / 16][4];
        float s[kColumns / 8][4] = {}, dp[kColumns / 8][4] = {};
        multiply_scores<F, kD>(s, own_k, queries, first);
        multiply_scores<F, kD>(dp, own_v, douts, first);
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float2 stat = stat_at(n, e);
            s[n][e] = exp2f(fmaf(s[n][e], a.scale * kLog2E, -stat.x));
            dp[n][e] = s[n][e] * (dp[n][e] - stat.y);
          }
        }
        pack_left<F>(w, s);
        multiply_weighted<F, kD>(dv, w, douts, first);
        pack_left<F>(w, dp);
        multiply_weighted<F, kD>(dk, w, queries, first);
      }
      __syncthreads();
    }
  }
  wait<0>();
  store<F, kD>(dk, {a.scale, a.scale}, a.dk, at, tile, size);
  store<F, kD>(dv, {1.0F, 1.0F}, a.dv, at, tile, size);
}

template <class Kernel>
void allow_shared(Kernel kernel, uint32_t bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
}

unsigned blocks_of(const FineDims& d, int64_t tiles) {
  return static_cast<unsigned>(d.B * d.H * tiles);
}

template <class F, int kD>
void launch_forward(const FineArgs& a, cudaStream_t stream) {
  constexpr uint32_t kBytes = 5 * kTileBytes<kD>;
  allow_shared(forward_kernel<F, kD>, kBytes);
  forward_kernel<F, kD><<<blocks_of(a.dims, a.dims.Nq), kThreads, kBytes, stream>>>(a);
  check_launch("block_attention (portable)");
}

int64_t words_of(const FineDims& d) {
  return (d.Nq + 31) / 32;
}

template <class F, int kD>
void launch_backward(const FineBackwardArgs& a, void* workspace, cudaStream_t stream) {
  const FineDims& d = a.dims;
  const int64_t slots = d.B * d.H * d.Nq * kRows, marks_size = d.B * d.H * d.Nk * words_of(d);
  auto* stats = static_cast<float2*>(workspace);
  auto* marks = reinterpret_cast<uint32_t*>(stats + slots);
  stats_kernel<F, kD><<<static_cast<unsigned>((slots + 7) / 8), 256, 0, stream>>>(a, stats);
  cudaMemsetAsync(marks, 0, static_cast<std::size_t>(marks_size) * sizeof(uint32_t), stream);
  if (d.K > 0) {
    const auto blocks = static_cast<unsigned>((d.B * d.H * d.Nq * d.K + 255) / 256);
    mark_kernel<<<blocks, 256, 0, stream>>>(a.list, d, words_of(d), marks);
  }
  constexpr uint32_t kQueryBytes = 4 * kTileBytes<kD>;
  allow_shared(dq_kernel<F, kD>, kQueryBytes);
  dq_kernel<F, kD><<<blocks_of(d, d.Nq), kThreads, kQueryBytes, stream>>>(a, stats);
  constexpr uint32_t kKeyBytes = 4 * kTileBytes<kD> + kRows * sizeof(float2);
  allow_shared(dkv_kernel<F, kD>, kKeyBytes);
  dkv_kernel<F, kD><<<blocks_of(d, d.Nk), kThreads, kKeyBytes, stream>>>(
      a, stats, marks, static_cast<int32_t>(words_of(d)));
  check_launch("block_attention backward (portable)");
}

}  // namespace

void block_attention(const FineArgs& a, Format format, void* stream) {
  const bool wide = a.dims.D == 128;
  const auto run = format == Format::kBf16
                       ? (wide ? launch_forward<Bfloat, 128> : launch_forward<Bfloat, 64>)
                       : (wide ? launch_forward<Half, 128> : launch_forward<Half, 64>);
  run(a, static_cast<cudaStream_t>(stream));
}

int64_t workspace_bytes(const FineBackwardArgs& a) {
  const FineDims& d = a.dims;
  return d.B * d.H *
         (d.Nq * kRows * int64_t{sizeof(float2)} + d.Nk * words_of(d) * int64_t{sizeof(uint32_t)});
}

void block_attention_backward(const FineBackwardArgs& a,
                              Format format,
                              void* workspace,
                              void* stream) {
  const bool wide = a.dims.D == 128;
  const auto run = format == Format::kBf16
                       ? (wide ? launch_backward<Bfloat, 128> : launch_backward<Bfloat, 64>)
                       : (wide ? launch_backward<Half, 128> : launch_backward<Half, 64>);
  run(a, workspace, static_cast<cudaStream_t>(stream));
}

}  // namespace fastwan::kernels::cuda::mma
