// Selection of a row's K highest scores by one warp, without a sort: the threshold is found bit by
// bit.
#pragma once

#include <cstdint>

namespace fastwan::kernels::cuda {

// An unsigned integer that orders like the floating point number of these bits; the number is no
// minus zero and no NaN with a sign.
template <int kBits>
__device__ uint32_t order_of(uint32_t bits) {
  constexpr uint32_t kSign = 1U << (kBits - 1), kAll = kSign | (kSign - 1);
  return (bits & kSign) != 0 ? ~bits & kAll : bits | kSign;
}

// The same of any number, as block_select.h orders it.
template <int kBits, uint32_t kInfinity>
__device__ uint32_t order_of_any(uint32_t bits) {
  constexpr uint32_t kSign = 1U << (kBits - 1), kAll = kSign | (kSign - 1);
  if ((bits & (kSign - 1)) > kInfinity) {
    return kAll;
  }
  return bits == kSign ? kSign : order_of<kBits>(bits);
}

// All lanes of a warp. `order_at(n)`: order_of the n-th score, read kBits + 2 times.
template <int kBits, class OrderAt>
__device__ void select_row(const OrderAt& order_at, int N, int K, int32_t* index) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto count_from = [&](uint32_t threshold) {
    int count = 0;
    for (int n = lane; n < N; n += 32) {
      count += order_at(n) >= threshold ? 1 : 0;
    }
    return static_cast<int>(__reduce_add_sync(~0U, static_cast<unsigned>(count)));
  };
  constexpr uint32_t kHighest = 1U << (kBits - 1), kAll = kHighest | (kHighest - 1);
  // The highest threshold that at least K scores reach; all above it are taken, and of those equal
  // to it the first.
  uint32_t threshold = 0;
  for (uint32_t bit = kHighest; bit != 0; bit >>= 1) {
    if (count_from(threshold | bit) >= K) {
      threshold |= bit;
    }
  }
  int ties_left = K - (threshold == kAll ? 0 : count_from(threshold + 1));
  int taken = 0;
  for (int n = lane; n - lane < N; n += 32) {
    const uint32_t order = n < N ? order_at(n) : 0;
    const bool tie = n < N && order == threshold;
    const uint32_t ties = __ballot_sync(~0U, tie);
    const uint32_t below = (1U << lane) - 1;
    const bool mine = n < N && (order > threshold || (tie && __popc(ties & below) < ties_left));
    const uint32_t chosen = __ballot_sync(~0U, mine);
    if (mine) {
      index[taken + __popc(chosen & below)] = n;
    }
    taken += __popc(chosen);
    ties_left -= min(ties_left, __popc(ties));
  }
}

}  // namespace fastwan::kernels::cuda
