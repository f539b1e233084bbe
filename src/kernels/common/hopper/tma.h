// Tensor copies from global to shared memory by the bulk copy engine (sm_90).
#pragma once

#include <cstdint>

#include <cuda.h>

namespace fastwan::kernels::hopper {

__device__ inline void tensor_map_prefetch(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

struct Box4 {
  int32_t c0, c1, c2, c3;  // first coordinate of each dimension, innermost first
};

struct Box5 {
  int32_t c0, c1, c2, c3, c4;
};

__device__ inline void tensor_load(uint32_t to, const CUtensorMap& map, Box4 at, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(at.c0), "r"(at.c1), "r"(at.c2), "r"(at.c3)
      : "memory");
}

__device__ inline void tensor_load(uint32_t to, const CUtensorMap& map, Box5 at, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(at.c0), "r"(at.c1), "r"(at.c2), "r"(at.c3), "r"(at.c4)
      : "memory");
}

// Contiguous bytes; addresses and size are multiples of 16.
__device__ inline void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// Ordinary stores to shared memory before it become visible to tensor cores and copies after it.
__device__ inline void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace fastwan::kernels::hopper
