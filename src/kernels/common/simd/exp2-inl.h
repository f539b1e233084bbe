// 2^x for the weights of a softmax. Per target: include it after hwy/highway.h, inside no
// namespace.
#if defined(FASTWAN_KERNELS_COMMON_SIMD_EXP2_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_COMMON_SIMD_EXP2_INL_H
#undef FASTWAN_KERNELS_COMMON_SIMD_EXP2_INL_H
#else
#define FASTWAN_KERNELS_COMMON_SIMD_EXP2_INL_H
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 2^x for x <= 0 (any x below 127): relative error below 2^-22; below -126 the result is 2^-126,
// not 0; NaN stays NaN. With x = n + f, |f| <= 1/2, a polynomial of degree 6 gives 2^f: Chebyshev
// interpolation, 2.6e-9 off before rounding.
template <class F32>
HWY_INLINE hn::Vec<F32> exp2_of_nonpositive(F32 f32, hn::Vec<F32> x) {
  const hn::RebindToSigned<F32> i32;
  const auto lowest = hn::Set(f32, -126.0F);
  x = hn::IfThenElse(hn::Lt(x, lowest), lowest, x);  // Max would drop a NaN on some targets
  const auto n = hn::Round(x);
  const auto f = hn::Sub(x, n);
  auto p = hn::Set(f32, 0.00015461444854736328F);
  p = hn::MulAdd(p, f, hn::Set(f32, 0.0013400427997112274F));
  p = hn::MulAdd(p, f, hn::Set(f32, 0.009618056938052177F));
  p = hn::MulAdd(p, f, hn::Set(f32, 0.05550327152013779F));
  p = hn::MulAdd(p, f, hn::Set(f32, 0.24022650718688965F));
  p = hn::MulAdd(p, f, hn::Set(f32, 0.6931471824645996F));
  p = hn::MulAdd(p, f, hn::Set(f32, 1.0F));
  const auto power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(i32, n), hn::Set(i32, 127)));
  return hn::Mul(p, hn::BitCast(f32, power));
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
