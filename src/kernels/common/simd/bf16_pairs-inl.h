// Products of pairs of bfloat16 numbers by the instructions of AVX-512 BF16. Per target: include it
// after hwy/highway.h, inside no namespace.
//
// Assembly, for Highway 1.0.3 has no target with these instructions, and an intrinsic of a larger
// target cannot be inlined into code of AVX3. Only code that asked has_bf16_pairs() may run them.
#if defined(FASTWAN_KERNELS_COMMON_SIMD_BF16_PAIRS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_COMMON_SIMD_BF16_PAIRS_INL_H
#undef FASTWAN_KERNELS_COMMON_SIMD_BF16_PAIRS_INL_H
#else
#define FASTWAN_KERNELS_COMMON_SIMD_BF16_PAIRS_INL_H
#endif

#include <cstdint>

#include <hwy/highway.h>

#include "kernels/common/bf16.h"

// Whether this target has vectors that the instructions take: 512 bits of x86.
#undef FASTWAN_BF16_PAIRS
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define FASTWAN_BF16_PAIRS 1
#else
#define FASTWAN_BF16_PAIRS 0
#endif

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline bool has_bf16_pairs() {
#if FASTWAN_BF16_PAIRS
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

#if FASTWAN_BF16_PAIRS

// A lane of 32 bits holds a pair. sum + a.first * b.first + a.second * b.second: products exact,
// sums rounded to nearest; subnormal numbers count as 0, whatever the mode.
struct MultiplyAddPairs {
  using Vec = hn::Vec<hn::ScalableTag<float>>;
  HWY_INLINE Vec operator()(Vec a, Vec b, Vec sum) const {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(b.raw), "v"(a.raw));
    return sum;
  }
};

// Rounds to nearest, ties to even, into 16 numbers in memory and returns what they are as floats.
HWY_INLINE hn::Vec<hn::ScalableTag<float>> round_to_bf16(hn::Vec<hn::ScalableTag<float>> x,
                                                         Bf16* to) {
  const hn::ScalableTag<float> f32;
  const hn::Rebind<uint16_t, hn::ScalableTag<float>> u16;
  const hn::RebindToUnsigned<hn::ScalableTag<float>> u32;
  hn::Vec<decltype(u16)> half;
  asm("vcvtneps2bf16 %1, %0" : "=v"(half.raw) : "v"(x.raw));
  hn::StoreU(half, u16, reinterpret_cast<uint16_t*>(to));
  return hn::BitCast(f32, hn::ShiftLeft<16>(hn::PromoteTo(u32, half)));
}

#endif  // FASTWAN_BF16_PAIRS

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
