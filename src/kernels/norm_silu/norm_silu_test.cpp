#include "kernels/norm_silu/norm_silu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/central_differences.h"
#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

struct Rows {
  int64_t count, C;
  std::vector<float> x, gamma;

  // Lengths from tiny to huge, one row of zeros; values of both signs.
  Rows(int64_t rows, int64_t channels) : count(rows), C(channels) {
    for (int64_t i = 0; i < count * C; ++i) {
      const double size = i / C == 1 ? 0.0 : std::exp2(3.0 * static_cast<double>(i / C) - 20.0);
      x.push_back(static_cast<float>(size * std::sin(0.37 * static_cast<double>(i) + 1.0)));
    }
    for (int64_t c = 0; c < C; ++c) {
      gamma.push_back(static_cast<float>(8.0 * std::cos(1.3 * static_cast<double>(c))));
    }
  }

  std::vector<double> reference() const {
    const std::vector<double> wide(x.begin(), x.end()), wide_gamma(gamma.begin(), gamma.end());
    std::vector<double> out(x.size());
    ref::norm_silu<double>(
        {.x = wide.data(), .gamma = wide_gamma.data(), .out = out.data(), .C = C},
        {.begin = 0, .end = count});
    return out;
  }
};

// The scale's sum of C squares is off by at most C / 2 + 2 half ulps relative, and three roundings
// follow: v is off by (C / 4 + 4) half ulps of itself. |silu'| < 1.1, and the exponential's
// argument adds |v| half ulps, its polynomial 2^-22, two operations one half ulp each.
TEST(NormSilu, AgreesWithReferenceOnEveryInstructionSetInPlaceToo) {
  for (const auto& [R, C] : {std::pair{7, 96}, {3, 1}, {5, 17}, {14, 384}}) {
    const Rows rows(R, C);
    const std::vector<double> want = rows.reference();
    testing::on_every_target([&, R = R, C = C](const char* target) {
      std::vector<float> got = rows.x;
      const NormSiluArgs<float> args{
          .x = got.data(), .gamma = rows.gamma.data(), .out = got.data(), .C = C};
      cpu::norm_silu(args, {.begin = 1, .end = R});
      cpu::norm_silu(args, {.begin = 0, .end = 1});
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double largest = 8.0 * std::sqrt(static_cast<double>(C));  // of |v|
        const double v = std::min(largest, std::abs(want[i]) + 1.0);
        const double relative = (1.1 * (static_cast<double>(C) / 4 + 4) + 4) * 0x1p-24 + 0x1p-22;
        ASSERT_NEAR(static_cast<double>(got[i]), want[i], relative * v) << target << ", " << i;
      }
    });
  }
}

TEST(NormSilu, ARowOfZerosStaysZeroAndAnExtremeValueStaysFinite) {
  testing::on_every_target([](const char* target) {
    const std::vector<float> gamma = {1e4F, -1e4F};
    std::vector<float> x = {0.0F, 0.0F, 3.0F, 3.0F};
    cpu::norm_silu({.x = x.data(), .gamma = gamma.data(), .out = x.data(), .C = 2},
                   {.begin = 0, .end = 2});
    EXPECT_EQ(x[0], 0.0F) << target;
    EXPECT_EQ(x[1], 0.0F) << target;
    EXPECT_NEAR(x[2], 1e4F, 1e-2F) << target;
    EXPECT_NEAR(x[3], 0.0F, 1e-30F) << target;
  });
}

// Central differences of sum(weight * out): their own error is h^2 times a third derivative, and
// rounding / h. Rows of ordinary length; in a row of zeros the derivative is the constant's.
TEST(NormSilu, BackwardOfTheReferenceIsTheDerivative) {
  constexpr int64_t kRows = 3, kC = 5;
  std::vector<double> x, gamma, weight;
  for (int64_t i = 0; i < kRows * kC; ++i) {
    x.push_back(1.5 * std::sin(0.9 * static_cast<double>(i) + 0.3));
    weight.push_back(std::cos(1.7 * static_cast<double>(i)));
  }
  for (int64_t c = 0; c < kC; ++c) {
    gamma.push_back(1.0 + 0.4 * std::cos(2.1 * static_cast<double>(c)));
  }
  const auto objective = [&] {
    std::vector<double> out(x.size());
    ref::norm_silu<double>({.x = x.data(), .gamma = gamma.data(), .out = out.data(), .C = kC},
                           {.begin = 0, .end = kRows});
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      sum += weight[i] * out[i];
    }
    return sum;
  };
  std::vector<double> grad_x(x.size()), grad_gamma(gamma.size());
  ref::norm_silu_backward({.grad_out = weight.data(),
                           .x = x.data(),
                           .gamma = gamma.data(),
                           .grad_x = grad_x.data(),
                           .C = kC},
                          grad_gamma.data(), {.begin = 0, .end = kRows});
  testing::expect_gradient(x, grad_x, objective);
  testing::expect_gradient(gamma, grad_gamma, objective);

  const std::vector<double> zeros(kC, 0.0);
  std::fill(grad_gamma.begin(), grad_gamma.end(), 0.0);
  ref::norm_silu_backward({.grad_out = weight.data(),
                           .x = zeros.data(),
                           .gamma = gamma.data(),
                           .grad_x = grad_x.data(),
                           .C = kC},
                          grad_gamma.data(), {.begin = 0, .end = 1});
  for (std::size_t c = 0; c < kC; ++c) {
    EXPECT_DOUBLE_EQ(grad_x[c], weight[c] * 0.5 * gamma[c] * std::sqrt(5.0) / 1e-12);
    EXPECT_EQ(grad_gamma[c], 0.0);
  }
}

}  // namespace
}  // namespace fastwan::kernels
