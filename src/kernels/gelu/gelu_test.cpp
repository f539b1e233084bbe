#include "kernels/gelu/gelu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/central_differences.h"
#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

// Both tails, the turning points and zero; a number of elements that no vector divides.
std::vector<double> inputs() {
  std::vector<double> x;
  for (int i = -611; i <= 611; ++i) {
    x.push_back(static_cast<double>(static_cast<float>(0.01 * i + 0.0000001 * i * i)));
  }
  for (const double far : {-1e4, -30.0, -12.0, 12.0, 30.0, 1e4}) {
    x.push_back(far);
  }
  return x;
}

TEST(Gelu, BackwardOfTheReferenceIsTheDerivative) {
  std::vector<double> x = {-5, -2.1, -0.8, -1e-3, 0, 0.3, 1.1, 4}, gradient(x.size());
  const std::vector<double> upstream = {1, -0.5, 2, 0.3, -1, 0.7, 1.5, -2};
  const auto count = static_cast<int64_t>(x.size());
  ref::gelu_backward({.grad_out = upstream.data(), .x = x.data(), .grad_x = gradient.data()},
                     {.begin = 0, .end = count});
  testing::expect_gradient(x, gradient, [&] {
    std::vector<double> out(x.size());
    ref::gelu({.x = x.data(), .out = out.data()}, {.begin = 0, .end = count});
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      sum += out[i] * upstream[i];
    }
    return sum;
  });
}

// s is off, relative to itself, by 2^-22 and two roundings of the exponential, |v| half ulps of its
// argument (four roundings deep) and two roundings more; |x v'| s (1 - s) < 1.2 and its factors see
// the same errors. Where |v| > 87 the exponential stops at 2^-126, times |x| far below any bar.
TEST(Gelu, AgreesWithReferenceOnEveryInstructionSetInPlaceToo) {
  const std::vector<double> wide = inputs();
  const std::vector<float> x(wide.begin(), wide.end());
  const auto count = static_cast<int64_t>(x.size());
  std::vector<float> upstream;
  for (std::size_t i = 0; i < x.size(); ++i) {
    upstream.push_back(static_cast<float>(std::sin(1.0 + 0.7 * static_cast<double>(i))));
  }
  const std::vector<double> wide_upstream(upstream.begin(), upstream.end());
  std::vector<double> want(wide.size()), want_gradient(wide.size());
  ref::gelu({.x = wide.data(), .out = want.data()}, {.begin = 0, .end = count});
  ref::gelu_backward(
      {.grad_out = wide_upstream.data(), .x = wide.data(), .grad_x = want_gradient.data()},
      {.begin = 0, .end = count});
  testing::on_every_target([&](const char* target) {
    std::vector<float> out = x, gradient = upstream;
    cpu::gelu({.x = out.data(), .out = out.data()}, {.begin = 3, .end = count});
    cpu::gelu({.x = out.data(), .out = out.data()}, {.begin = 0, .end = 3});
    const GeluBackwardArgs<float> args{
        .grad_out = gradient.data(), .x = x.data(), .grad_x = gradient.data()};
    cpu::gelu_backward(args, {.begin = 3, .end = count});
    cpu::gelu_backward(args, {.begin = 0, .end = 3});
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double size = std::abs(wide[i]);
      const double v = 2 * 0.7978845608 * (size + 0.044715 * size * size * size);
      // of the smaller of s and 1 - s, which the larger one hides
      const double relative = 0x1p-22 + (5 * std::min(v, 90.0) + 8) * 0x1p-24;
      const double small = 1 / (1 + std::exp(v)), slope = 1.2 * small * (2 * size + 1) + 1;
      ASSERT_NEAR(static_cast<double>(out[i]), want[i],
                  size * small * relative + std::abs(want[i]) * 4 * 0x1p-24 + 1e-33)
          << target << ", " << wide[i];
      ASSERT_NEAR(static_cast<double>(gradient[i]), want_gradient[i],
                  std::abs(wide_upstream[i]) *
                      (small * (1 + size * (1 + size * size)) * relative + slope * 6 * 0x1p-24))
          << target << ", " << wide[i];
    }
  });
}

}  // namespace
}  // namespace fastwan::kernels
