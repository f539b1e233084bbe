#include "kernels/residual_norm/residual_norm.h"

#include <cmath>
#include <cstddef>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/central_differences.h"

namespace fastwan::kernels {
namespace {

std::vector<double> numbers(int64_t count, double seed) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(std::sin(seed + 1.7 * static_cast<double>(i)));
  }
  return values;
}

struct Case {
  bool adds, gates, norms, adds_one, shares;
};

class ResidualNormReference : public ::testing::TestWithParam<Case> {};

TEST_P(ResidualNormReference, BackwardIsTheGradientOfForward) {
  const Case c = GetParam();
  constexpr int64_t kB = 2, kS = 3, kC = 5, kN = kB * kS * kC;
  const int64_t rows = c.shares ? 1 : kB, stride = c.shares ? 0 : kC;
  std::vector<double> x = numbers(kN, 1), y = numbers(kN, 2), gate = numbers(rows * kC, 3),
                      scale = numbers(rows * kC, 4), shift = numbers(rows * kC, 5);
  const std::vector<double> of_sum = numbers(kN, 6), of_out = numbers(kN, 7);
  const auto vector = [stride](bool is_there, const std::vector<double>& values) {
    return PerSample<double>{.data = is_there ? values.data() : nullptr, .stride = stride};
  };
  const ResidualNormRule<double> rule{.gate = vector(c.gates, gate),
                                      .scale = vector(c.norms, scale),
                                      .shift = vector(c.norms, shift),
                                      .B = kB,
                                      .S = kS,
                                      .C = kC,
                                      .eps = 1e-6,
                                      .adds_one = c.adds_one};
  const auto sum = [&] {
    std::vector<double> total(kN), out(kN);
    ref::residual_norm({.x = x.data(),
                        .y = c.adds ? y.data() : nullptr,
                        .sum = c.adds ? total.data() : nullptr,
                        .out = c.norms ? out.data() : nullptr,
                        .rule = rule});
    double value = 0;
    for (std::size_t i = 0; i < total.size(); ++i) {
      value += total[i] * of_sum[i] + out[i] * of_out[i];
    }
    return value;
  };
  std::vector<double> grad_x(kN), grad_y(kN), grads(kB * 3 * kC);
  ref::residual_norm_backward({.grad_sum = c.adds ? of_sum.data() : nullptr,
                               .grad_out = c.norms ? of_out.data() : nullptr,
                               .x = x.data(),
                               .y = c.adds ? y.data() : nullptr,
                               .grad_x = grad_x.data(),
                               .grad_y = c.adds ? grad_y.data() : nullptr,
                               .rule = rule},
                              grads.data());
  const auto of_vector = [&](int64_t which) {
    std::vector<double> gradient(static_cast<std::size_t>(rows * kC));
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t i = 0; i < kC; ++i) {
        gradient[static_cast<std::size_t>(b * stride + i)] +=
            grads[static_cast<std::size_t>((b * 3 + which) * kC + i)];
      }
    }
    return gradient;
  };
  testing::expect_gradient(x, grad_x, sum);
  if (c.adds) {
    testing::expect_gradient(y, grad_y, sum);
  }
  if (c.gates) {
    testing::expect_gradient(gate, of_vector(0), sum);
  }
  if (c.norms) {
    testing::expect_gradient(scale, of_vector(1), sum);
    testing::expect_gradient(shift, of_vector(2), sum);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    ResidualNormReference,
    ::testing::Values(
        Case{.adds = false, .gates = false, .norms = true, .adds_one = true, .shares = false},
        Case{.adds = true, .gates = true, .norms = true, .adds_one = false, .shares = true},
        Case{.adds = true, .gates = true, .norms = true, .adds_one = true, .shares = false},
        Case{.adds = true, .gates = false, .norms = true, .adds_one = true, .shares = false},
        Case{.adds = true, .gates = true, .norms = false, .adds_one = true, .shares = false}));

}  // namespace
}  // namespace fastwan::kernels
