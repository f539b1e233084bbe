#include <algorithm>
#include <cmath>

#include "kernels/rms_rotate/rms_rotate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_rotate/rms_rotate_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/rows-inl.h"
#include "kernels/common/simd/sum_of_squares-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

// One head: pairs (even, odd) times (cos, sin).
void rotate_head(const RmsRotateArgs<float>& a,
                 float scale,
                 const float* x,
                 const float* weight,
                 const float* rotation,
                 float* out) {
  int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<float> f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const auto factor = hn::Set(f32, scale);
  for (; c + lanes <= a.d; c += lanes) {
    const auto y = hn::Mul(hn::Mul(hn::LoadU(f32, x + c), factor), hn::LoadU(f32, weight + c));
    const auto turn = hn::LoadU(f32, rotation + c);
    const auto along = hn::Mul(y, hn::DupEven(turn));
    const auto across = hn::Mul(hn::Shuffle2301(y), hn::DupOdd(turn));
    hn::StoreU(hn::OddEven(hn::Add(along, across), hn::Sub(along, across)), f32, out + c);
  }
#endif
  for (; c < a.d; c += 2) {
    const float even = x[c] * scale * weight[c], odd = x[c + 1] * scale * weight[c + 1];
    out[c] = even * rotation[c] - odd * rotation[c + 1];
    out[c + 1] = even * rotation[c + 1] + odd * rotation[c];
  }
}

void scale_row(float scale, const float* x, const float* weight, int64_t C, float* out) {
  over_row(C, [=](auto tag, int64_t c) HWY_ATTR {
    const auto y = hn::Mul(hn::LoadU(tag, x + c), hn::Set(tag, scale));
    hn::StoreU(hn::Mul(y, hn::LoadU(tag, weight + c)), tag, out + c);
  });
}

void rms_rotate_rows(const RmsRotateArgs<float>& a, Range rows) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const float* x = a.x + i * a.C;
    float* out = a.out + i * a.C;
    const float mean = sum_of_squares(x, a.C) / static_cast<float>(a.C);
    const float scale = 1.0F / std::sqrt(mean + static_cast<float>(a.eps));
    if (a.rotation == nullptr) {
      scale_row(scale, x, a.weight, a.C, out);
      continue;
    }
    const float* rotation = a.rotation + i % a.S * a.d;
    for (int64_t c = 0; c < a.C; c += a.d) {
      rotate_head(a, scale, x + c, a.weight + c, rotation, out + c);
    }
  }
}

// One head: pairs (even, odd) times (cos, -sin).
void turn_head_back(const float* x, const float* rotation, int64_t d, float* out) {
  int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<float> f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  for (; c + lanes <= d; c += lanes) {
    const auto y = hn::LoadU(f32, x + c), turn = hn::LoadU(f32, rotation + c);
    const auto along = hn::Mul(y, hn::DupEven(turn));
    const auto across = hn::Mul(hn::Shuffle2301(y), hn::DupOdd(turn));
    hn::StoreU(hn::OddEven(hn::Sub(along, across), hn::Add(along, across)), f32, out + c);
  }
#endif
  for (; c < d; c += 2) {
    out[c] = x[c] * rotation[c] + x[c + 1] * rotation[c + 1];
    out[c + 1] = x[c + 1] * rotation[c] - x[c] * rotation[c + 1];
  }
}

// A row whose gradient, turned back, is g, which may be grad_x; grad_weight [C] is added to.
void backward_row(const RmsRotateBackwardArgs<float>& a,
                  const float* x,
                  const float* g,
                  float* grad_x,
                  float* grad_weight) {
  const float* weight = a.weight;
  const auto width = static_cast<float>(a.C);
  const float scale = 1.0F / std::sqrt(sum_of_squares(x, a.C) / width + static_cast<float>(a.eps));
  const float along =
      sum_over_row(a.C,
                   [=](auto tag, int64_t c) HWY_ATTR {
                     const auto of_norm =
                         hn::Mul(hn::LoadU(tag, g + c), hn::LoadU(tag, weight + c));
                     return hn::Mul(of_norm, hn::Mul(hn::LoadU(tag, x + c), hn::Set(tag, scale)));
                   }) /
      width;
  over_row(a.C, [=](auto tag, int64_t c) HWY_ATTR {
    const auto from = hn::LoadU(tag, g + c);
    const auto n = hn::Mul(hn::LoadU(tag, x + c), hn::Set(tag, scale));
    hn::StoreU(hn::MulAdd(from, n, hn::LoadU(tag, grad_weight + c)), tag, grad_weight + c);
    const auto d = hn::NegMulAdd(n, hn::Set(tag, along), hn::Mul(from, hn::LoadU(tag, weight + c)));
    hn::StoreU(hn::Mul(d, hn::Set(tag, scale)), tag, grad_x + c);
  });
}

void backward_parts(const RmsRotateBackwardArgs<float>& a,
                    float* grad_weight,
                    int64_t R,
                    Range parts) {
  for (int64_t part = parts.begin; part < parts.end; ++part) {
    float* sums = grad_weight + part * a.C;
    std::fill_n(sums, a.C, 0.0F);
    const Range rows = rows_of_part(R, part);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const float* g = a.grad_out + i * a.C;
      float* grad_x = a.grad_x + i * a.C;
      if (a.rotation != nullptr) {
        for (int64_t c = 0; c < a.C; c += a.d) {
          turn_head_back(g + c, a.rotation + i % a.S * a.d, a.d, grad_x + c);
        }
        g = grad_x;
      }
      backward_row(a, a.x + i * a.C, g, grad_x, sums);
    }
  }
}

}  // namespace

void rms_rotate_backward_float(const RmsRotateBackwardArgs<float>& args,
                               float* grad_weight,
                               int64_t R,
                               Range parts) {
  backward_parts(args, grad_weight, R, parts);
}

void rms_rotate_float(const RmsRotateArgs<float>& args, Range rows) {
  rms_rotate_rows(args, rows);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(rms_rotate_float);
HWY_EXPORT(rms_rotate_backward_float);

void cpu::rms_rotate(const RmsRotateArgs<float>& args, Range rows) {
  HWY_DYNAMIC_DISPATCH(rms_rotate_float)(args, rows);
}
int64_t cpu::rms_rotate_parts(int64_t R) {
  return parts_of_rows(R);
}
void cpu::rms_rotate_backward(const RmsRotateBackwardArgs<float>& args,
                              float* grad_weight,
                              int64_t R,
                              Range parts) {
  HWY_DYNAMIC_DISPATCH(rms_rotate_backward_float)(args, grad_weight, R, parts);
}
}  // namespace fastwan::kernels
#endif
