#include <algorithm>
#include <cmath>

#include "kernels/norm_silu/norm_silu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm_silu/norm_silu_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/exp2-inl.h"
#include "kernels/common/simd/sum_of_squares-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr float kLog2E = 1.44269504F;
constexpr float kSmallestLength = 1e-12F;

// The exponential of -|v| never overflows: silu(v) = v / (1 + e^-v) = v e^v / (1 + e^v).
template <class F32>
HWY_INLINE hn::Vec<F32> silu(F32 f32, hn::Vec<F32> v) {
  const auto one = hn::Set(f32, 1.0F);
  const auto e = exp2_of_nonpositive(f32, hn::Mul(hn::Abs(v), hn::Set(f32, -kLog2E)));
  const auto top = hn::IfThenElse(hn::Lt(v, hn::Zero(f32)), e, one);
  return hn::Div(hn::Mul(v, top), hn::Add(one, e));
}

void norm_silu_rows(const NormSiluArgs<float>& a, Range rows) {
  const hn::ScalableTag<float> f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const float root = std::sqrt(static_cast<float>(a.C));
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const float* x = a.x + i * a.C;
    float* out = a.out + i * a.C;
    const float scale = root / std::max(std::sqrt(sum_of_squares(x, a.C)), kSmallestLength);
    const auto run = [&](auto tag, int64_t c) HWY_ATTR {
      const auto v =
          hn::Mul(hn::Mul(hn::LoadU(tag, x + c), hn::Set(tag, scale)), hn::LoadU(tag, a.gamma + c));
      hn::StoreU(silu(tag, v), tag, out + c);
    };
    int64_t c = 0;
    for (; c + lanes <= a.C; c += lanes) {
      run(f32, c);
    }
    for (; c < a.C; ++c) {
      run(one, c);
    }
  }
}

}  // namespace

void norm_silu_float(const NormSiluArgs<float>& args, Range rows) {
  norm_silu_rows(args, rows);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(norm_silu_float);

void cpu::norm_silu(const NormSiluArgs<float>& args, Range rows) {
  HWY_DYNAMIC_DISPATCH(norm_silu_float)(args, rows);
}
}  // namespace fastwan::kernels
#endif
