// The sum of the squares of a row. Per target: include it after hwy/highway.h, inside no namespace.
#if defined(FASTWAN_KERNELS_COMMON_SIMD_SUM_OF_SQUARES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_COMMON_SIMD_SUM_OF_SQUARES_INL_H
#undef FASTWAN_KERNELS_COMMON_SIMD_SUM_OF_SQUARES_INL_H
#else
#define FASTWAN_KERNELS_COMMON_SIMD_SUM_OF_SQUARES_INL_H
#endif

#include <cstdint>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE float sum_of_squares(const float* x, int64_t count) {
  const hn::ScalableTag<float> f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  auto even = hn::Zero(f32), odd = even;  // two sums: a multiply-add waits for the one before
  int64_t c = 0;
  for (; c + 2 * lanes <= count; c += 2 * lanes) {
    const auto first = hn::LoadU(f32, x + c), second = hn::LoadU(f32, x + c + lanes);
    even = hn::MulAdd(first, first, even);
    odd = hn::MulAdd(second, second, odd);
  }
  float sum = hn::GetLane(hn::SumOfLanes(f32, hn::Add(even, odd)));
  for (; c < count; ++c) {
    sum += x[c] * x[c];
  }
  return sum;
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
