// Barriers in shared memory that count arrivals of threads and bytes of bulk copies (sm_90).
//
// A barrier alternates between two phases. A waiter names the parity of the phase that must be
// complete; it may be at most one phase behind, so whoever reads a ring waits for every round.
#pragma once

#include <cstdint>

namespace fastwan::kernels::hopper {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// How many lanes arrive for a warp. One suffices: __syncwarp orders all lanes' accesses before it.
// racecheck follows the thread that arrives alone, so programs made for it let every lane arrive.
#ifdef FASTWAN_EVERY_LANE_ARRIVES
inline constexpr uint32_t kArrivingLanes = 32;
#else
inline constexpr uint32_t kArrivingLanes = 1;
#endif

// A whole warp is done with what the barrier guards.
__device__ inline void warp_arrive(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 < kArrivingLanes) {
    barrier_arrive(barrier);
  }
}

// Announces bytes that copies will deliver in the present phase.
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Where a ring of `kStages` slots stands: slot and parity of the round.
template <int kStages>
struct RingPosition {
  uint32_t slot = 0;
  uint32_t round = 0;

  __device__ void advance() {
    if (++slot == kStages) {
      slot = 0;
      round ^= 1;
    }
  }
};

}  // namespace fastwan::kernels::hopper
