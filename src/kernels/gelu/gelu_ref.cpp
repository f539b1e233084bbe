#include <cmath>
#include <numbers>

#include "kernels/gelu/gelu.h"

namespace fastwan::kernels::ref {
namespace {

const double kFactor = std::sqrt(2 * std::numbers::inv_pi);
constexpr double kCubic = 0.044715;

double tanh_of(double x) {
  return std::tanh(kFactor * (x + kCubic * x * x * x));
}

}  // namespace

void gelu(const GeluArgs<double>& a, Range elements) {
  for (int64_t i = elements.begin; i < elements.end; ++i) {
    a.out[i] = a.x[i] * (1 + tanh_of(a.x[i])) / 2;
  }
}

void gelu_backward(const GeluBackwardArgs<double>& a, Range elements) {
  for (int64_t i = elements.begin; i < elements.end; ++i) {
    const double x = a.x[i], t = tanh_of(x);
    const double slope = (1 + t) / 2 + x * (1 - t * t) / 2 * kFactor * (1 + 3 * kCubic * x * x);
    a.grad_x[i] = a.grad_out[i] * slope;
  }
}

}  // namespace fastwan::kernels::ref
