#include <cmath>
#include <cstddef>
#include <vector>

#include "kernels/residual_norm/residual_norm.h"

namespace fastwan::kernels::ref {
namespace {

using Rule = ResidualNormRule<double>;

double of_sample(const PerSample<double>& values, int64_t b, int64_t c, double otherwise) {
  return values.data != nullptr ? values.data[b * values.stride + c] : otherwise;
}

struct Normed {
  std::vector<double> sum, norm;
  double scale = 0;  // 1 / sqrt(var + eps)
};

Normed normed_row(const Rule& rule, const double* x, const double* y, int64_t b) {
  const auto C = static_cast<double>(rule.C);
  Normed row;
  double mean = 0, variance = 0;
  for (int64_t c = 0; c < rule.C; ++c) {
    row.sum.push_back(x[c] + (y != nullptr ? of_sample(rule.gate, b, c, 1) * y[c] : 0));
    mean += row.sum.back() / C;
  }
  for (const double r : row.sum) {
    variance += (r - mean) * (r - mean) / C;
  }
  row.scale = 1 / std::sqrt(variance + rule.eps);
  for (const double r : row.sum) {
    row.norm.push_back((r - mean) * row.scale);
  }
  return row;
}

const double* row_of(const double* x, int64_t i, int64_t C) {
  return x != nullptr ? x + i * C : nullptr;
}

}  // namespace

void residual_norm(const ResidualNormArgs<double, double>& a) {
  const Rule& rule = a.rule;
  for (int64_t i = 0; i < rule.B * rule.S; ++i) {
    const int64_t b = i / rule.S;
    const Normed row = normed_row(rule, a.x + i * rule.C, row_of(a.y, i, rule.C), b);
    for (int64_t c = 0; c < rule.C; ++c) {
      const auto at = static_cast<std::size_t>(c);
      if (a.sum != nullptr) {
        a.sum[i * rule.C + c] = row.sum[at];
      }
      if (a.out != nullptr) {
        const double w = (rule.adds_one ? 1 : 0) + of_sample(rule.scale, b, c, 0);
        a.out[i * rule.C + c] = row.norm[at] * w + of_sample(rule.shift, b, c, 0);
      }
    }
  }
}

void residual_norm_backward(const ResidualNormBackwardArgs<double, double>& a, double* grads) {
  const Rule& rule = a.rule;
  const auto C = static_cast<double>(rule.C);
  for (int64_t i = 0; i < rule.B * rule.S; ++i) {
    const int64_t b = i / rule.S;
    const double* y = row_of(a.y, i, rule.C);
    const double* grad_out = row_of(a.grad_out, i, rule.C);
    const Normed row = normed_row(rule, a.x + i * rule.C, y, b);
    std::vector<double> g;
    double mean = 0, along = 0;
    for (int64_t c = 0; c < rule.C; ++c) {
      const double w = (rule.adds_one ? 1 : 0) + of_sample(rule.scale, b, c, 0);
      g.push_back(grad_out != nullptr ? grad_out[c] * w : 0);
      mean += g.back() / C;
      along += g.back() * row.norm[static_cast<std::size_t>(c)] / C;
    }
    double* of_gate = grads + b * 3 * rule.C;
    for (int64_t c = 0; c < rule.C; ++c) {
      const auto at = static_cast<std::size_t>(c);
      const double from_sum = a.grad_sum != nullptr ? a.grad_sum[i * rule.C + c] : 0;
      const double d = (g[at] - mean - row.norm[at] * along) * row.scale + from_sum;
      if (a.grad_x != nullptr) {
        a.grad_x[i * rule.C + c] = d;
      }
      if (a.grad_y != nullptr) {
        a.grad_y[i * rule.C + c] = of_sample(rule.gate, b, c, 1) * d;
      }
      of_gate[c] += y != nullptr ? d * y[c] : 0;
      of_gate[rule.C + c] += grad_out != nullptr ? grad_out[c] * row.norm[at] : 0;
      of_gate[2 * rule.C + c] += grad_out != nullptr ? grad_out[c] : 0;
    }
  }
}

}  // namespace fastwan::kernels::ref
