// Vectors of floats loaded from and stored to float or bfloat16 memory. Per target: include it
// after hwy/highway.h, inside no namespace.
#if defined(FASTWAN_KERNELS_COMMON_SIMD_ELEMENTS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_COMMON_SIMD_ELEMENTS_INL_H
#undef FASTWAN_KERNELS_COMMON_SIMD_ELEMENTS_INL_H
#else
#define FASTWAN_KERNELS_COMMON_SIMD_ELEMENTS_INL_H
#endif

#include <hwy/highway.h>

#include "kernels/common/bf16.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class F32>
HWY_INLINE hn::Vec<F32> load_row(F32 f32, const float* from) {
  return hn::LoadU(f32, from);
}

template <class F32>
HWY_INLINE hn::Vec<F32> load_row(F32 f32, const Bf16* from) {
  const hn::Rebind<uint16_t, F32> u16;
  const hn::Rebind<uint32_t, F32> u32;
  const auto half = hn::LoadU(u16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(f32, hn::ShiftLeft<16>(hn::PromoteTo(u32, half)));
}

template <class F32>
HWY_INLINE void store_row(F32 f32, hn::Vec<F32> x, float* to) {
  hn::StoreU(x, f32, to);
}

// Nearest, ties to even. DemoteTo(bfloat16) truncates in Highway 1.0.3, which would bias every sum
// downwards.
template <class F32>
HWY_INLINE void store_row(F32 f32, hn::Vec<F32> x, Bf16* to) {
  const hn::Rebind<uint16_t, F32> u16;
  const hn::Rebind<int32_t, F32> i32;
  const hn::Rebind<uint32_t, F32> u32;
  const auto bits = hn::BitCast(u32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(u32, 0x7FFF)));
  const auto nan = hn::Or(bits, hn::Set(u32, 0x400000));
  const auto is_nan = hn::MaskFromVec(hn::BitCast(u32, hn::VecFromMask(f32, hn::IsNaN(x))));
  const auto kept = hn::ShiftRight<16>(hn::IfThenElse(is_nan, nan, rounded));
  hn::StoreU(hn::DemoteTo(u16, hn::BitCast(i32, kept)), u16, reinterpret_cast<uint16_t*>(to));
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
