// Schedule  tile_pool: one block a tile and tensor, a thread owns 8 channels and walks the tokens.
//           coarse_select: one block for 16 query tiles of a head. Scores by mma.sync from L2 into
//           shared memory; each warp selects and normalises two rows there; weights times value
//           means with the keys split over four pairs of warps, summed in fixed order.
// Budget    scores 16 x N bf16, which become the weights, and partial outputs 4 x 16 x D floats:
//           46 KB + 32 KB at N = 1440
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/block_select/select_row.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/vsa_coarse/vsa_coarse.h"

namespace fastwan::kernels::cuda {
namespace {

constexpr int kTileSide = 4;
constexpr int kVector = 8;  // bf16 in 16 bytes

__device__ float low_float(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ float high_float(uint32_t pair) {
  return __uint_as_float(pair & 0xFFFF0000U);
}
__device__ uint32_t pack(float low, float high) {
  uint32_t packed = 0;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
// Neither half is a minus zero: zeros of both signs order alike. (cvt makes every NaN 0x7FFF.)
__device__ uint32_t without_minus_zero(uint32_t pair) {
  pair = (pair & 0xFFFFU) == 0x8000U ? pair & 0xFFFF0000U : pair;
  return pair >> 16 == 0x8000U ? pair & 0xFFFFU : pair;
}
__device__ float round_bf16(float x) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

__global__ void tile_pool_kernel(const __grid_constant__ TilePoolArgs a) {
  const int side_x = static_cast<int>((a.grid.X + kTileSide - 1) / kTileSide);
  const int side_y = static_cast<int>((a.grid.Y + kTileSide - 1) / kTileSide);
  const int tile = static_cast<int>(blockIdx.x), which = static_cast<int>(blockIdx.y);
  const int64_t batch = blockIdx.z;
  const int x0 = tile % side_x * kTileSide, y0 = tile / side_x % side_y * kTileSide;
  const int t0 = tile / side_x / side_y * kTileSide;
  const int nx = min(kTileSide, static_cast<int>(a.grid.X) - x0);
  const int ny = min(kTileSide, static_cast<int>(a.grid.Y) - y0);
  const int nt = min(kTileSide, static_cast<int>(a.grid.T) - t0);
  const int64_t row = a.H * a.D;
  const Tokens<const Bf16> from = a.x[which];
  for (int64_t c = int64_t{threadIdx.x} * kVector; c < row; c += int64_t{blockDim.x} * kVector) {
    const Bf16* base = from.data + batch * from.batch + c;
    float sum[kVector] = {};
    for (int t = 0; t < nt; ++t) {
      for (int y = 0; y < ny; ++y) {
        const int64_t token = (static_cast<int64_t>(t0 + t) * a.grid.Y + y0 + y) * a.grid.X + x0;
        uint4 line[kTileSide];
#pragma unroll
        for (int x = 0; x < kTileSide; ++x) {
          line[x] = x < nx ? __ldg(reinterpret_cast<const uint4*>(base + (token + x) * from.token))
                           : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int x = 0; x < kTileSide; ++x) {
          const uint32_t pairs[4] = {line[x].x, line[x].y, line[x].z, line[x].w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[2 * i] += low_float(pairs[i]);
            sum[2 * i + 1] += high_float(pairs[i]);
          }
        }
      }
    }
    const auto count = static_cast<float>(nx * ny * nt);
    const int64_t num_tiles = gridDim.x;
    *reinterpret_cast<uint4*>(a.mean[which] + (batch * num_tiles + tile) * row + c) =
        make_uint4(pack(sum[0] / count, sum[1] / count), pack(sum[2] / count, sum[3] / count),
                   pack(sum[4] / count, sum[5] / count), pack(sum[6] / count, sum[7] / count));
  }
}

constexpr int kRows = 16;
constexpr int kWarps = 8;
constexpr int kSplits = kWarps / 2;  // of the keys, in the last product
constexpr int kPad = 8;              // bf16 after each row of scores: no bank conflicts

__device__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Place {
  int64_t batch, head;
  int first;  // query tile of row 0
};

__device__ uint4
load_mean(const Bf16* mean, const CoarseArgs& a, const Place& at, int tile, int c) {
  return __ldg(
      reinterpret_cast<const uint4*>(mean + ((at.batch * a.N + tile) * a.H + at.head) * a.D + c));
}

// Scores of the block's 16 rows against all tiles. The head size is contracted in a permuted order,
// the same for both operands, so that a thread reads 16 bytes at once: piece j of thread c = lane %
// 4 holds channels 8 (4 j + c) ... and feeds steps 2 j and 2 j + 1.
template <int kD>
__device__ void compute_scores(const CoarseArgs& a,
                               const Place& at,
                               __nv_bfloat16* scores,
                               int pitch) {
  constexpr int kLoads = kD / 32;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int last = static_cast<int>(a.N) - 1;
  uint4 q[2][kLoads];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      q[i][j] = load_mean(a.q_mean, a, at, min(at.first + lane / 4 + 8 * i, last),
                          8 * (4 * j + lane % 4));
    }
  }
  const float root = sqrtf(static_cast<float>(kD));
  for (int n = warp * 8; n <= last; n += kWarps * 8) {
    uint4 k[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      k[j] = load_mean(a.k_mean, a, at, min(n + lane / 4, last), 8 * (4 * j + lane % 4));
    }
    float s[4] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      mma(s, {q[0][j].x, q[1][j].x, q[0][j].y, q[1][j].y}, k[j].x, k[j].y);
      mma(s, {q[0][j].z, q[1][j].z, q[0][j].w, q[1][j].w}, k[j].z, k[j].w);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = n + 2 * (lane % 4);
      auto* to = reinterpret_cast<uint32_t*>(scores + (lane / 4 + 8 * i) * pitch + column);
      *to = without_minus_zero(pack(round_bf16(s[2 * i]) / root, round_bf16(s[2 * i + 1]) / root));
    }
  }
}

// One warp, one row: scores become weights; columns up to the pitch become zero.
__device__ void normalise(__nv_bfloat16* row, int N, int padded) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float top = -INFINITY;
  for (int n = lane; n < N; n += 32) {
    top = fmaxf(top, __bfloat162float(row[n]));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    top = fmaxf(top, __shfl_xor_sync(~0U, top, step));
  }
  float sum = 0;
  for (int n = lane; n < N; n += 32) {
    sum += __expf(__bfloat162float(row[n]) - top);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0U, sum, step);
  }
  for (int n = lane; n < padded; n += 32) {
    const float weight = n < N ? __expf(__bfloat162float(row[n]) - top) / sum : 0.0F;
    row[n] = __float2bfloat16_rn(weight);
  }
}

// Weights times value means. A warp takes 64 channels and every kSplits-th step of 16 keys. Columns
// of B are permuted so that a thread reads 16 bytes of a row: block j of 8 columns holds channels 8
// m + j.
template <int kD>
__device__ void coarse_output(
    const CoarseArgs& a, const Place& at, const __nv_bfloat16* weights, int pitch, float* partial) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int split = warp / 2, half = warp % 2;
  const int last = static_cast<int>(a.N) - 1;
  if (half * 64 < kD) {
    float o[8][4] = {};
    for (int first = split * 16; first <= last; first += kSplits * 16) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i % 2), column = first + 2 * (lane % 4) + 8 * (i / 2);
        w[i] = *reinterpret_cast<const uint32_t*>(weights + row * pitch + column);
      }
      uint4 v[4];  // rows 2c, 2c + 1, 2c + 8, 2c + 9 of the step, c = lane % 4
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first + 2 * (lane % 4) + i % 2 + 8 * (i / 2);
        v[i] = load_mean(a.v_mean, a, at, min(row, last), 64 * half + 8 * (lane / 4));
      }
      const auto pair = [](uint32_t even, uint32_t odd, bool upper) {
        return __byte_perm(even, odd, upper ? 0x7632 : 0x5410);
      };
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const auto word = [&](const uint4& x) {
          return j / 2 == 0 ? x.x : j / 2 == 1 ? x.y : j / 2 == 2 ? x.z : x.w;
        };
        mma(o[j], w, pair(word(v[0]), word(v[1]), j % 2 == 1),
            pair(word(v[2]), word(v[3]), j % 2 == 1));
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = lane / 4 + 8 * (e / 2), column = 2 * (lane % 4) + e % 2;
        partial[(split * kRows + row) * kD + 64 * half + 8 * column + j] = o[j][e];
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kD; i += kWarps * 32) {
    const int row = i / kD, tile = at.first + row;
    if (tile <= last) {
      float sum = 0;
#pragma unroll
      for (int s = 0; s < kSplits; ++s) {
        sum += partial[s * kRows * kD + i];
      }
      a.coarse[((at.batch * a.N + tile) * a.H + at.head) * kD + i % kD] =
          Bf16{__bfloat16_as_ushort(__float2bfloat16_rn(sum))};
    }
  }
}

template <int kD>
__global__ void __launch_bounds__(kWarps * 32, 1)
    coarse_select_kernel(const __grid_constant__ CoarseArgs a, int pitch) {
  extern __shared__ __align__(16) uint8_t smem[];
  auto* scores = reinterpret_cast<__nv_bfloat16*>(smem);
  auto* partial = reinterpret_cast<float*>(smem + kRows * pitch * 2);
  const Place at{blockIdx.z, blockIdx.y, static_cast<int>(blockIdx.x) * kRows};
  compute_scores<kD>(a, at, scores, pitch);
  __syncthreads();
  const auto N = static_cast<int>(a.N);
  for (int row = static_cast<int>(threadIdx.x / 32); row < kRows; row += kWarps) {
    const int tile = at.first + row;
    if (tile < N) {
      const int64_t list = (at.batch * a.H + at.head) * a.N + tile;
      const auto* bits = reinterpret_cast<const uint16_t*>(scores + row * pitch);
      select_row<16>([bits](int n) { return order_of<16>(bits[n]); }, N, static_cast<int>(a.K),
                     a.block_index + list * a.K);
      if (threadIdx.x % 32 == 0) {
        a.block_count[list] = static_cast<int32_t>(a.K);
      }
    }
    normalise(scores + row * pitch, N, pitch - kPad);
  }
  if (a.coarse != nullptr) {
    __syncthreads();
    coarse_output<kD>(a, at, scores, pitch, partial);
  }
}

template <int kD>
void launch_select(const CoarseArgs& a, cudaStream_t stream) {
  const int pitch = static_cast<int>((a.N + 15) / 16 * 16) + kPad;
  const int bytes = kRows * pitch * 2 + kSplits * kRows * kD * 4;
  cudaFuncSetAttribute(coarse_select_kernel<kD>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       bytes);
  const dim3 grid(static_cast<unsigned>((a.N + kRows - 1) / kRows), static_cast<unsigned>(a.H),
                  static_cast<unsigned>(a.B));
  coarse_select_kernel<kD><<<grid, kWarps * 32, static_cast<unsigned>(bytes), stream>>>(a, pitch);
}

}  // namespace

void tile_pool(const TilePoolArgs& a, void* stream) {
  const auto side = [](int64_t n) {
    return static_cast<unsigned>((n + kTileSide - 1) / kTileSide);
  };
  const dim3 grid(side(a.grid.T) * side(a.grid.Y) * side(a.grid.X), kPooled,
                  static_cast<unsigned>(a.B));
  constexpr int kThreads = 192;  // 12 heads of 128 in one sweep
  tile_pool_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("tile_pool");
}

void coarse_select(const CoarseArgs& a, void* stream) {
  (a.D == 64 ? launch_select<64> : launch_select<128>)(a, static_cast<cudaStream_t>(stream));
  check_launch("coarse_select");
}

}  // namespace fastwan::kernels::cuda
