#include "kernels/gelu/gelu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gelu/gelu_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/exp2-inl.h"
#include "kernels/common/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr float kLinear = 1.59576912F;   // 2 sqrt(2 / pi)
constexpr float kCubic = 0.0713548163F;  // of x^3: 0.044715 times that
constexpr float kLog2E = 1.44269504F;

template <class F32>
HWY_INLINE hn::Vec<F32> argument(F32 f32, hn::Vec<F32> x) {
  const auto factor = hn::MulAdd(hn::Mul(x, x), hn::Set(f32, kCubic), hn::Set(f32, kLinear));
  return hn::Mul(x, factor);
}

// The exponential of -|v| never overflows: s = 1 / (1 + e^-v) = e^v / (1 + e^v).
template <class F32>
HWY_INLINE hn::Vec<F32> exponential(F32 f32, hn::Vec<F32> v) {
  return exp2_of_nonpositive(f32, hn::Mul(hn::Abs(v), hn::Set(f32, -kLog2E)));
}

void gelu_elements(const GeluArgs<float>& a, Range elements) {
  const float* x = a.x + elements.begin;
  float* out = a.out + elements.begin;
  over_row(elements.end - elements.begin, [=](auto tag, int64_t i) HWY_ATTR {
    const auto one = hn::Set(tag, 1.0F), from = hn::LoadU(tag, x + i);
    const auto v = argument(tag, from), e = exponential(tag, v);
    const auto top = hn::IfThenElse(hn::Lt(v, hn::Zero(tag)), e, one);
    hn::StoreU(hn::Div(hn::Mul(from, top), hn::Add(one, e)), tag, out + i);
  });
}

void backward_elements(const GeluBackwardArgs<float>& a, Range elements) {
  const float *x = a.x + elements.begin, *grad_out = a.grad_out + elements.begin;
  float* grad_x = a.grad_x + elements.begin;
  over_row(elements.end - elements.begin, [=](auto tag, int64_t i) HWY_ATTR {
    const auto one = hn::Set(tag, 1.0F), from = hn::LoadU(tag, x + i);
    const auto v = argument(tag, from), e = exponential(tag, v);
    const auto inverse = hn::Div(one, hn::Add(one, e));
    const auto small = hn::Mul(e, inverse);  // the smaller of s and 1 - s, the other is inverse
    const auto s = hn::IfThenElse(hn::Lt(v, hn::Zero(tag)), small, inverse);
    const auto x_dv = hn::Mul(
        from, hn::MulAdd(hn::Mul(from, from), hn::Set(tag, 3 * kCubic), hn::Set(tag, kLinear)));
    const auto slope = hn::MulAdd(x_dv, hn::Mul(small, inverse), s);
    hn::StoreU(hn::Mul(hn::LoadU(tag, grad_out + i), slope), tag, grad_x + i);
  });
}

}  // namespace

void gelu_float(const GeluArgs<float>& args, Range elements) {
  gelu_elements(args, elements);
}
void gelu_backward_float(const GeluBackwardArgs<float>& args, Range elements) {
  backward_elements(args, elements);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(gelu_float);
HWY_EXPORT(gelu_backward_float);

void cpu::gelu(const GeluArgs<float>& args, Range elements) {
  HWY_DYNAMIC_DISPATCH(gelu_float)(args, elements);
}
void cpu::gelu_backward(const GeluBackwardArgs<float>& args, Range elements) {
  HWY_DYNAMIC_DISPATCH(gelu_backward_float)(args, elements);
}
}  // namespace fastwan::kernels
#endif
