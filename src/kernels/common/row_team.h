// Device code for operations over rows: some warps, a team, share a row, each lane with up to two
// chunks of four channels. A block holds several teams, or one wide one.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_bf16.h>

namespace fastwan::kernels::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kWidth = 4;  // channels that a lane loads at once
inline constexpr int kChunks = 2;
inline constexpr int kMaxTeam = 20;                                           // warps
inline constexpr int64_t kMaxChannels = kMaxTeam * kWarp * kWidth * kChunks;  // 5,120
inline constexpr int kMaxThreads = kMaxTeam * kWarp;

struct Four {
  float at[kWidth];
};

__device__ inline Four load(const float* from) {
  const float4 x = *reinterpret_cast<const float4*>(from);
  return {{x.x, x.y, x.z, x.w}};
}
__device__ inline Four load(const __nv_bfloat16* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  return {{__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000U),
           __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000U)}};
}
__device__ inline void store(const Four& x, float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(x.at[0], x.at[1], x.at[2], x.at[3]);
}
__device__ inline void store(const Four& x, __nv_bfloat16* to) {
  const auto bits = [](float v) {
    return static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16_rn(v)));
  };
  *reinterpret_cast<uint2*>(to) =
      make_uint2(bits(x.at[0]) | bits(x.at[1]) << 16, bits(x.at[2]) | bits(x.at[3]) << 16);
}

// As the element's type holds it.
__device__ inline float rounded(float x, const float* /*type*/) {
  return x;
}
__device__ inline float rounded(float x, const __nv_bfloat16* /*type*/) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

__device__ inline float sum_over(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(0xffffffffU, x, offset);
  }
  return x;
}

// How rows of C channels are shared: warps of a team, teams of a block.
struct TeamShape {
  int warps, teams;
  int threads() const { return warps * teams * kWarp; }
};
inline TeamShape team_shape(int64_t C) {
  constexpr int64_t kOfWarp = kWarp * kWidth * kChunks;
  const int warps = static_cast<int>((C + kOfWarp - 1) / kOfWarp);
  return {.warps = warps, .teams = std::max(1, 4 / warps)};
}
inline bool takes_channels(int64_t C) {
  return C > 0 && C % kWidth == 0 && C <= kMaxChannels;
}
// Rows of one kind are walked by this many blocks: enough to fill a GPU, few enough that one row of
// sums from each is little.
inline int64_t row_blocks(int64_t rows, int64_t kinds, int64_t C) {
  constexpr int64_t kEnough = 1056;  // 8 on each of 132 multiprocessors
  const int64_t teams = team_shape(C).teams;
  const int64_t most = std::max<int64_t>(1, (rows + teams - 1) / teams);
  return std::min(most, std::max<int64_t>(1, (kEnough + kinds - 1) / std::max<int64_t>(1, kinds)));
}

class Team {
 public:
  // scratch: 2 * kMaxTeam floats of shared memory
  __device__ Team(int warps, float* scratch)
      : warps_(warps),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        lane_(static_cast<int>(threadIdx.x) % kWarp + warp_ % warps * kWarp),
        scratch_(scratch) {}

  __device__ int index() const { return warp_ / warps_; }
  __device__ int count() const { return static_cast<int>(blockDim.x) / kWarp / warps_; }
  __device__ int channel(int chunk) const { return (chunk * warps_ * kWarp + lane_) * kWidth; }

  // Sums over the team, each in one order. All threads of the block take part.
  __device__ float2 sum(float x, float y) const {
    x = sum_over(x, kWarp);
    y = sum_over(y, kWarp);
    if (warps_ == 1) {
      return {x, y};
    }
    __syncthreads();  // the sums before these have been read
    if (lane_ % kWarp == 0) {
      scratch_[2 * warp_] = x;
      scratch_[2 * warp_ + 1] = y;
    }
    __syncthreads();
    float2 total = {0, 0};
    for (int i = 0; i < warps_; ++i) {
      const int of = 2 * (index() * warps_ + i);
      total.x += scratch_[of];
      total.y += scratch_[of + 1];
    }
    return total;
  }

  // The teams' values of each channel, added in the teams' order and written to `to` [C] by the
  // first team. lines: kMaxThreads * kWidth floats of shared memory.
  __device__ void add_teams(const Four (&values)[kChunks], float* to, int C, float* lines) const {
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      __syncthreads();
      store(values[k], &lines[threadIdx.x * kWidth]);
      __syncthreads();
      const int c = channel(k);
      if (index() == 0 && c < C) {
        Four total = values[k];
        for (int i = 1; i < count(); ++i) {
          const Four more = load(&lines[(threadIdx.x + i * warps_ * kWarp) * kWidth]);
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            total.at[j] += more.at[j];
          }
        }
        store(total, to + c);
      }
    }
  }

 private:
  int warps_, warp_, lane_;
  float* scratch_;
};

template <class Element>
__device__ void load_row(
    const Team& team, const Element* row, int C, bool is_there, Four (&x)[kChunks]) {
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    const int c = team.channel(k);
    x[k] = is_there && c < C ? load(row + c) : Four{};
  }
}

template <class Device, class Element>
Device* on_device(Element* x) {
  return reinterpret_cast<Device*>(x);
}

}  // namespace fastwan::kernels::cuda
