// Schedule  a thread makes a group of four numbers
// Budget    no shared memory
#include "kernels/common/cuda_launch.h"
#include "kernels/sample_noise/sample_noise.h"

namespace fastwan::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRounds = 10;
constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

__device__ uint4 philox(uint4 counter, uint32_t key0, uint32_t key1) {
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    counter = {__umulhi(kMultiplier1, counter.z) ^ counter.y ^ key0, kMultiplier1 * counter.z,
               __umulhi(kMultiplier0, counter.x) ^ counter.w ^ key1, kMultiplier0 * counter.x};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

__device__ double uniform_of(uint32_t word) {
  return (static_cast<double>(word >> 8) + 0.5) * 0x1p-24;
}

__device__ float2 normal_pair(uint32_t first, uint32_t second) {
  constexpr double kTwoPi = 2.0 * 3.141592653589793238462643383279502884;
  const double rho = sqrt(-2.0 * log(uniform_of(first)));
  const double theta = kTwoPi * uniform_of(second);
  return {static_cast<float>(rho * cos(theta)), static_cast<float>(rho * sin(theta))};
}

__global__ void __launch_bounds__(kThreads) noise_kernel(SampleNoiseArgs a) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = 4 * group, b = blockIdx.y;
  if (first >= a.count) {
    return;
  }
  const uint4 words =
      philox({static_cast<uint32_t>(group), static_cast<uint32_t>(a.slots[b]), a.step, a.tag},
             static_cast<uint32_t>(a.seed), static_cast<uint32_t>(a.seed >> 32));
  const float2 p = normal_pair(words.x, words.y), q = normal_pair(words.z, words.w);
  const float numbers[4] = {p.x, p.y, q.x, q.y};
  float* const out = a.out + b * a.count + first;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i < a.count) {
      out[i] = numbers[i];
    }
  }
}

}  // namespace

void sample_noise(const SampleNoiseArgs& a, void* stream) {
  if (a.B == 0 || a.count == 0) {
    return;
  }
  const auto groups = static_cast<unsigned>((a.count + 3) / 4);
  const dim3 grid((groups + kThreads - 1) / kThreads, static_cast<unsigned>(a.B));
  noise_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("sample_noise");
}

}  // namespace fastwan::kernels::cuda
