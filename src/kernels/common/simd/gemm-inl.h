// A small matrix product, up to 6 rows by two vectors at once, the right side packed in panels. Per
// target: include it after hwy/highway.h, inside no namespace.
#if defined(FASTWAN_KERNELS_COMMON_SIMD_GEMM_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_COMMON_SIMD_GEMM_INL_H
#undef FASTWAN_KERNELS_COMMON_SIMD_GEMM_INL_H
#else
#define FASTWAN_KERNELS_COMMON_SIMD_GEMM_INL_H
#endif

#include <cstdint>
#include <type_traits>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 6 rows x 2 vectors: 12 accumulators, 2 vectors of B and one of A fill AVX2's 16 registers; each
// step loads 8 values for 12 multiply-adds.
constexpr int64_t kGemmRows = 6;

// Columns of a panel of B.
HWY_INLINE int64_t panel_width() {
  return 2 * static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
}

// A is [rows, depth], either of them innermost; B one panel [depth, panel_width()].
struct PanelProduct {
  const float* a;
  int64_t a_row;    // stride from row to row
  int64_t a_depth;  // and along the depth
  const float* b;
  int64_t depth;
};

// What a step does with a value of A, a vector of B and a sum.
struct MultiplyAdd {
  using Vec = hn::Vec<hn::ScalableTag<float>>;
  HWY_INLINE Vec operator()(Vec a, Vec b, Vec sum) const { return hn::MulAdd(a, b, sum); }
};

// A B for kRows rows, handed row by row to finish(row, left, right).
template <int kRows, class F32, class Finish, class Step>
HWY_INLINE void multiply_rows(F32 f32,
                              const PanelProduct& p,
                              const Finish& finish,
                              const Step& step) {
  static_assert(kRows >= 1 && kRows <= kGemmRows);
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const float* a = p.a;
  const float* b = p.b;
  const int64_t stride = p.a_row, next = p.a_depth;
  auto c00 = hn::Zero(f32), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00;
  auto c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00;
  for (int64_t i = 0; i < p.depth; ++i, a += next, b += 2 * lanes) {
    const auto b0 = hn::Load(f32, b), b1 = hn::Load(f32, b + lanes);
    const auto a0 = hn::Set(f32, a[0]);
    c00 = step(a0, b0, c00), c01 = step(a0, b1, c01);
    if constexpr (kRows > 1) {
      const auto a1 = hn::Set(f32, a[stride]);
      c10 = step(a1, b0, c10), c11 = step(a1, b1, c11);
    }
    if constexpr (kRows > 2) {
      const auto a2 = hn::Set(f32, a[2 * stride]);
      c20 = step(a2, b0, c20), c21 = step(a2, b1, c21);
    }
    if constexpr (kRows > 3) {
      const auto a3 = hn::Set(f32, a[3 * stride]);
      c30 = step(a3, b0, c30), c31 = step(a3, b1, c31);
    }
    if constexpr (kRows > 4) {
      const auto a4 = hn::Set(f32, a[4 * stride]);
      c40 = step(a4, b0, c40), c41 = step(a4, b1, c41);
    }
    if constexpr (kRows > 5) {
      const auto a5 = hn::Set(f32, a[5 * stride]);
      c50 = step(a5, b0, c50), c51 = step(a5, b1, c51);
    }
  }
  finish(0, c00, c01);
  if constexpr (kRows > 1) {
    finish(1, c10, c11);
  }
  if constexpr (kRows > 2) {
    finish(2, c20, c21);
  }
  if constexpr (kRows > 3) {
    finish(3, c30, c31);
  }
  if constexpr (kRows > 4) {
    finish(4, c40, c41);
  }
  if constexpr (kRows > 5) {
    finish(5, c50, c51);
  }
}

// All `rows` of A against one panel; finish(row, left, right) gets each row's two vectors.
template <class F32, class Finish, class Step = MultiplyAdd>
HWY_INLINE void multiply_panel(
    F32 f32, PanelProduct p, int64_t rows, const Finish& finish, const Step& step = {}) {
  int64_t first = 0;
  const auto run = [&](auto count) HWY_ATTR {
    multiply_rows<decltype(count)::value>(
        f32, p, [&](int64_t r, auto left, auto right) HWY_ATTR { finish(first + r, left, right); },
        step);
  };
  for (; first + kGemmRows <= rows; first += kGemmRows, p.a += kGemmRows * p.a_row) {
    run(std::integral_constant<int, 6>());
  }
  switch (rows - first) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    case 4:
      return run(std::integral_constant<int, 4>());
    case 5:
      return run(std::integral_constant<int, 5>());
    default:
      return;
  }
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
