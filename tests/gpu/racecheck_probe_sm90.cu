// The ring protocol of the Hopper kernels in miniature, for racecheck: what does that tool follow?
//
// One writer thread fills a slot, four warps read it with all lanes and release it through an
// mbarrier that the writer waits for, again and again. Three ways to release it:
//
//   lane    as the kernels do: __syncwarp, then lane 0 arrives for its warp
//   lanes   every lane arrives for itself
//   early   every lane arrives before it reads: a true race, which the tool must report
//
// usage: gpu_racecheck_probe lane | lanes | early
#include <cstdio>
#include <string_view>

#include <cuda_runtime.h>

#include "kernels/common/hopper/mbarrier.h"

namespace fastwan::gpu {
namespace {

using namespace kernels::hopper;

enum class Release { kLane, kLanes, kEarly };

constexpr int kReaders = 128, kRounds = 64;

template <Release kRelease>
__global__ void ring_kernel(uint32_t* sums) {
  __shared__ uint64_t full, empty;
  __shared__ uint32_t slot;
  const uint32_t full_at = shared_address(&full), empty_at = shared_address(&empty);
  if (threadIdx.x == 0) {
    barrier_init(full_at, 1);
    barrier_init(empty_at, kRelease == Release::kLane ? kReaders / 32 : kReaders);
    barrier_init_fence();
  }
  __syncthreads();
  volatile uint32_t* const word = &slot;
  if (threadIdx.x == kReaders) {
    for (uint32_t round = 0; round < kRounds; ++round) {
      barrier_wait(empty_at, (round & 1) ^ 1);
      *word = round + 1;
      barrier_arrive(full_at);
    }
  } else if (threadIdx.x < kReaders) {
    uint32_t sum = 0;
    for (uint32_t round = 0; round < kRounds; ++round) {
      barrier_wait(full_at, round & 1);
      if constexpr (kRelease == Release::kEarly) {
        barrier_arrive(empty_at);
      }
      sum += *word;
      if constexpr (kRelease == Release::kLanes) {
        barrier_arrive(empty_at);
      }
      if constexpr (kRelease == Release::kLane) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
          barrier_arrive(empty_at);
        }
      }
    }
    sums[threadIdx.x] = sum;
  }
}

int run(std::string_view way) {
  uint32_t* sums = nullptr;
  if (cudaMalloc(&sums, kReaders * sizeof(uint32_t)) != cudaSuccess) {
    std::printf("FAILED cudaMalloc\n");
    return 1;
  }
  const auto kernel = way == "lane"    ? ring_kernel<Release::kLane>
                      : way == "lanes" ? ring_kernel<Release::kLanes>
                                       : ring_kernel<Release::kEarly>;
  kernel<<<1, kReaders + 32>>>(sums);
  uint32_t host[kReaders];
  const cudaError_t error = cudaMemcpy(host, sums, sizeof(host), cudaMemcpyDeviceToHost);
  cudaFree(sums);
  if (error != cudaSuccess) {
    std::printf("FAILED %s\n", cudaGetErrorString(error));
    return 1;
  }
  for (const uint32_t sum : host) {
    if (way != "early" && sum != kRounds * (kRounds + 1) / 2) {
      std::printf("FAILED a reader's sum is %u\n", sum);
      return 1;
    }
  }
  std::printf("probe %.*s ran\n", static_cast<int>(way.size()), way.data());
  return 0;
}

}  // namespace
}  // namespace fastwan::gpu

int main(int argc, char** argv) {
  const std::string_view way = argc == 2 ? argv[1] : "";
  if (way != "lane" && way != "lanes" && way != "early") {
    std::printf("usage: gpu_racecheck_probe lane | lanes | early\n");
    return 2;
  }
  return fastwan::gpu::run(way);
}
