// Warpgroup roles: registers move from those that load to those that multiply (sm_90a).
#pragma once

#include <cstdint>

namespace fastwan::kernels::hopper {

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupWarps = kWarpgroupThreads / 32;

template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Barrier among the threads of one warpgroup; id 0 belongs to __syncthreads.
__device__ inline void warpgroup_sync(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kWarpgroupThreads) : "memory");
}

}  // namespace fastwan::kernels::hopper
