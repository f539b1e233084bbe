// Loops over a row: whole vectors, then single elements. Per target: include it after
// hwy/highway.h, inside no namespace.
#if defined(FASTWAN_KERNELS_COMMON_SIMD_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_COMMON_SIMD_ROWS_INL_H
#undef FASTWAN_KERNELS_COMMON_SIMD_ROWS_INL_H
#else
#define FASTWAN_KERNELS_COMMON_SIMD_ROWS_INL_H
#endif

#include <cstdint>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// body(tag, c) for the elements from c on.
template <class Body>
HWY_INLINE void over_row(int64_t count, const Body& body) {
  const hn::ScalableTag<float> f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  int64_t c = 0;
  for (; c + lanes <= count; c += lanes) {
    body(f32, c);
  }
  for (; c < count; ++c) {
    body(one, c);
  }
}

// The sum of the vectors term(tag, c).
template <class Term>
HWY_INLINE float sum_over_row(int64_t count, const Term& term) {
  const hn::ScalableTag<float> f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  auto even = hn::Zero(f32), odd = even;  // two sums: an addition waits for the one before
  int64_t c = 0;
  for (; c + 2 * lanes <= count; c += 2 * lanes) {
    even = hn::Add(even, term(f32, c));
    odd = hn::Add(odd, term(f32, c + lanes));
  }
  for (; c + lanes <= count; c += lanes) {
    even = hn::Add(even, term(f32, c));
  }
  float sum = hn::GetLane(hn::SumOfLanes(f32, hn::Add(even, odd)));
  for (; c < count; ++c) {
    sum += hn::GetLane(term(one, c));
  }
  return sum;
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
