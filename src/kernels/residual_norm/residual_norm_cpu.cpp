// Schedule  a row passes the first-level cache three times: its sum, its moments (mean first, then
//           squares about it), its result. The backward makes the sum again from x and y, so that
//           neither it nor its norm is kept
#include <algorithm>
#include <cmath>

#include "kernels/residual_norm/residual_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/residual_norm/residual_norm_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

using Rule = ResidualNormRule<float>;

const float* of_sample(const PerSample<float>& values, int64_t b) {
  return values.data != nullptr ? values.data + b * values.stride : nullptr;
}

template <class Element>
Element* row_of(Element* x, int64_t i, int64_t C) {
  return x != nullptr ? x + i * C : nullptr;
}

// x + gate * y; gate may be null. Returns its mean.
float add_row(const float* x, const float* y, const float* gate, int64_t C, float* sum) {
  const float total = sum_over_row(C, [=](auto tag, int64_t c) HWY_ATTR {
    const auto added = hn::LoadU(tag, y + c);
    const auto r = gate != nullptr
                       ? hn::MulAdd(added, hn::LoadU(tag, gate + c), hn::LoadU(tag, x + c))
                       : hn::Add(added, hn::LoadU(tag, x + c));
    hn::StoreU(r, tag, sum + c);
    return r;
  });
  return total / static_cast<float>(C);
}

float mean_of(const float* x, int64_t C) {
  return sum_over_row(C, [=](auto tag, int64_t c) HWY_ATTR { return hn::LoadU(tag, x + c); }) /
         static_cast<float>(C);
}

// 1 / sqrt(var + eps)
float inverse_deviation(const float* x, float mean, const Rule& rule) {
  const float squares = sum_over_row(rule.C, [=](auto tag, int64_t c) HWY_ATTR {
    const auto centred = hn::Sub(hn::LoadU(tag, x + c), hn::Set(tag, mean));
    return hn::Mul(centred, centred);
  });
  return 1.0F / std::sqrt(squares / static_cast<float>(rule.C) + static_cast<float>(rule.eps));
}

void forward_rows(const ResidualNormArgs<float, float>& a, Range rows) {
  const Rule& rule = a.rule;
  const int64_t C = rule.C;
  const float one = rule.adds_one ? 1.0F : 0.0F;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const int64_t b = i / rule.S;
    const float* read = a.x + i * C;
    float mean = 0;
    if (a.y != nullptr) {
      mean = add_row(read, a.y + i * C, of_sample(rule.gate, b), C, a.sum + i * C);
      read = a.sum + i * C;
    } else {
      mean = mean_of(read, C);
    }
    if (a.out == nullptr) {
      continue;
    }
    const float deviation = inverse_deviation(read, mean, rule);
    const float *scale = of_sample(rule.scale, b), *shift = of_sample(rule.shift, b);
    float* out = a.out + i * C;
    over_row(C, [=](auto tag, int64_t c) HWY_ATTR {
      const auto norm =
          hn::Mul(hn::Sub(hn::LoadU(tag, read + c), hn::Set(tag, mean)), hn::Set(tag, deviation));
      const auto w = hn::Add(hn::LoadU(tag, scale + c), hn::Set(tag, one));
      hn::StoreU(hn::MulAdd(norm, w, hn::LoadU(tag, shift + c)), tag, out + c);
    });
  }
}

// A row of the backward; grads [3, C]: of gate, scale and shift.
struct BackwardRow {
  const float *grad_sum, *grad_out, *x, *y;
  float *grad_x, *grad_y, *grads;
  const float *gate, *scale;
};

// What the norm sends back to its row stays in `row`, [C].
void norm_backward(const BackwardRow& a, const Rule& rule, float* row) {
  const int64_t C = rule.C;
  const float one = rule.adds_one ? 1.0F : 0.0F;
  const float* read = a.y != nullptr ? row : a.x;
  const float mean = a.y != nullptr ? add_row(a.x, a.y, a.gate, C, row) : mean_of(a.x, C);
  const float deviation = inverse_deviation(read, mean, rule);
  const float *grad_out = a.grad_out, *scale = a.scale;
  const auto g = [=](auto tag, int64_t c) HWY_ATTR {
    return hn::Mul(hn::LoadU(tag, grad_out + c),
                   hn::Add(hn::LoadU(tag, scale + c), hn::Set(tag, one)));
  };
  const auto norm = [=](auto tag, int64_t c) HWY_ATTR {
    return hn::Mul(hn::Sub(hn::LoadU(tag, read + c), hn::Set(tag, mean)), hn::Set(tag, deviation));
  };
  const auto width = static_cast<float>(C);
  const float mean_g = sum_over_row(C, g) / width;
  const float along = sum_over_row(C, [=](auto tag, int64_t c)
                                          HWY_ATTR { return hn::Mul(g(tag, c), norm(tag, c)); }) /
                      width;
  float *of_scale = a.grads + C, *of_shift = of_scale + C;
  over_row(C, [=](auto tag, int64_t c) HWY_ATTR {
    const auto n = norm(tag, c), from = hn::LoadU(tag, grad_out + c);
    hn::StoreU(hn::MulAdd(from, n, hn::LoadU(tag, of_scale + c)), tag, of_scale + c);
    hn::StoreU(hn::Add(from, hn::LoadU(tag, of_shift + c)), tag, of_shift + c);
    const auto centred = hn::Sub(g(tag, c), hn::Set(tag, mean_g));
    const auto d = hn::NegMulAdd(n, hn::Set(tag, along), centred);
    hn::StoreU(hn::Mul(d, hn::Set(tag, deviation)), tag, row + c);
  });
}

// All of the sum's gradient, of which `row` holds what the norm sent back, to x, y and the gate.
void sum_backward(const BackwardRow& a, const float* row, int64_t C) {
  const float* from_norm = a.grad_out != nullptr ? row : nullptr;
  over_row(C, [=](auto tag, int64_t c) HWY_ATTR {
    auto d = from_norm != nullptr ? hn::LoadU(tag, from_norm + c) : hn::Zero(tag);
    if (a.grad_sum != nullptr) {
      d = hn::Add(d, hn::LoadU(tag, a.grad_sum + c));
    }
    if (a.grad_x != nullptr) {
      hn::StoreU(d, tag, a.grad_x + c);
    }
    if (a.y != nullptr) {
      float* of_gate = a.grads + c;
      hn::StoreU(hn::MulAdd(d, hn::LoadU(tag, a.y + c), hn::LoadU(tag, of_gate)), tag, of_gate);
    }
    if (a.grad_y != nullptr) {
      const auto of_y = a.gate != nullptr ? hn::Mul(d, hn::LoadU(tag, a.gate + c)) : d;
      hn::StoreU(of_y, tag, a.grad_y + c);
    }
  });
}

void backward_parts(const ResidualNormBackwardArgs<float, float>& a,
                    float* grads,
                    float* row,
                    Range parts) {
  const Rule& rule = a.rule;
  const int64_t C = rule.C, of_sample_parts = cpu::residual_norm_parts(rule.S);
  for (int64_t part = parts.begin; part < parts.end; ++part) {
    const int64_t b = part / of_sample_parts, k = part % of_sample_parts;
    float* sums = grads + part * 3 * C;
    std::fill_n(sums, 3 * C, 0.0F);
    const Range rows = rows_of_part(rule.S, k);
    for (int64_t s = rows.begin; s < rows.end; ++s) {
      const int64_t i = b * rule.S + s;
      const BackwardRow at{.grad_sum = row_of(a.grad_sum, i, C),
                           .grad_out = row_of(a.grad_out, i, C),
                           .x = a.x + i * C,
                           .y = row_of(a.y, i, C),
                           .grad_x = row_of(a.grad_x, i, C),
                           .grad_y = row_of(a.grad_y, i, C),
                           .grads = sums,
                           .gate = of_sample(rule.gate, b),
                           .scale = of_sample(rule.scale, b)};
      if (at.grad_out != nullptr) {
        norm_backward(at, rule, row);
      }
      sum_backward(at, row, C);
    }
  }
}

}  // namespace

void residual_norm_float(const ResidualNormArgs<float, float>& args, Range rows) {
  forward_rows(args, rows);
}
void residual_norm_backward_float(const ResidualNormBackwardArgs<float, float>& args,
                                  float* grads,
                                  float* row,
                                  Range parts) {
  backward_parts(args, grads, row, parts);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(residual_norm_float);
HWY_EXPORT(residual_norm_backward_float);

int64_t cpu::residual_norm_parts(int64_t S) {
  return parts_of_rows(S);
}
void cpu::residual_norm(const ResidualNormArgs<float, float>& args, Range rows) {
  HWY_DYNAMIC_DISPATCH(residual_norm_float)(args, rows);
}
void cpu::residual_norm_backward(const ResidualNormBackwardArgs<float, float>& args,
                                 float* grads,
                                 float* row,
                                 Range parts) {
  HWY_DYNAMIC_DISPATCH(residual_norm_backward_float)(args, grads, row, parts);
}
}  // namespace fastwan::kernels
#endif
