#include "kernels/residual_norm/residual_norm.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/central_differences.h"
#include "kernels/common/every_target.h"

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

const auto kKinds = ::testing::Values(
    Case{.adds = false, .gates = false, .norms = true, .adds_one = true, .shares = false},
    Case{.adds = true, .gates = true, .norms = true, .adds_one = false, .shares = true},
    Case{.adds = true, .gates = true, .norms = true, .adds_one = true, .shares = false},
    Case{.adds = true, .gates = false, .norms = true, .adds_one = true, .shares = false},
    Case{.adds = true, .gates = true, .norms = false, .adds_one = true, .shares = false});

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

INSTANTIATE_TEST_SUITE_P(Kinds, ResidualNormReference, kKinds);

// ---- the CPU kernels

std::vector<float> narrow(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

struct Problem {
  Case c;
  int64_t B, S, C;
  std::vector<float> x, y, gate, scale, shift, grad_sum, grad_out;

  Problem(const Case& which, int64_t batch, int64_t rows, int64_t channels)
      : c(which), B(batch), S(rows), C(channels) {
    const int64_t n = B * S * C, vectors = (c.shares ? 1 : B) * C;
    x = narrow(numbers(n, 1)), y = narrow(numbers(n, 2)), gate = narrow(numbers(vectors, 3));
    scale = narrow(numbers(vectors, 4)), shift = narrow(numbers(vectors, 5));
    grad_sum = narrow(numbers(n, 6)), grad_out = narrow(numbers(n, 7));
    for (int64_t i = 0; i < n; ++i) {
      x[static_cast<std::size_t>(i)] += 3;  // a mean that has to be taken away
    }
  }

  template <class Number, class Vector>
  ResidualNormRule<Number> rule(const Vector& g, const Vector& w, const Vector& b) const {
    const auto rows = [this](bool is_there, const Vector& values) {
      return PerSample<Number>{.data = is_there ? values.data() : nullptr,
                               .stride = c.shares ? 0 : C};
    };
    return {.gate = rows(c.gates, g),
            .scale = rows(c.norms, w),
            .shift = rows(c.norms, b),
            .B = B,
            .S = S,
            .C = C,
            .eps = 1e-6,
            .adds_one = c.adds_one};
  }
};

// Values reach 4 and weights 2, a deviation is at least 0.5, so a norm is at most 8: a sum is off
// by 2 half ulps of 4 or 5, moments by C / 4 + 4 half ulps of what they add, and the gradient's
// four products and sums follow. Gradients over rows add at most rows / 4 + 2 half ulps of all
// terms.
constexpr double kHalfUlp = 0x1p-24;

class ResidualNormCpu : public ::testing::TestWithParam<Case> {};

TEST_P(ResidualNormCpu, AgreesWithReferenceOnEveryInstructionSetInPlaceToo) {
  for (const auto& [B, S, C] : {std::tuple{2, 3, 5}, {1, 2, 40}, {3, 4, 133}}) {
    const Problem p(GetParam(), B, S, C);
    const std::vector<double> x = widened(p.x), y = widened(p.y), gate = widened(p.gate),
                              scale = widened(p.scale), shift = widened(p.shift);
    std::vector<double> want_sum(x.size()), want_out(x.size());
    ref::residual_norm({.x = x.data(),
                        .y = p.c.adds ? y.data() : nullptr,
                        .sum = want_sum.data(),
                        .out = want_out.data(),
                        .rule = p.rule<double>(gate, scale, shift)});
    const double bar = 16 * (static_cast<double>(C) / 4 + 12) * kHalfUlp;
    testing::on_every_target([&, B = B, S = S](const char* target) {
      std::vector<float> sum = p.y, out(x.size(), -1.0F);
      const ResidualNormArgs<float, float> args{.x = p.x.data(),
                                                .y = p.c.adds ? sum.data() : nullptr,
                                                .sum = p.c.adds ? sum.data() : nullptr,
                                                .out = p.c.norms ? out.data() : nullptr,
                                                .rule = p.rule<float>(p.gate, p.scale, p.shift)};
      cpu::residual_norm(args, {.begin = 1, .end = B * S});
      cpu::residual_norm(args, {.begin = 0, .end = 1});
      for (std::size_t i = 0; i < x.size(); ++i) {
        if (p.c.adds) {
          ASSERT_NEAR(static_cast<double>(sum[i]), want_sum[i], 16 * kHalfUlp) << target << i;
        }
        if (p.c.norms) {
          ASSERT_NEAR(static_cast<double>(out[i]), want_out[i], bar) << target << ", " << i;
        }
      }
    });
  }
}

TEST_P(ResidualNormCpu, BackwardAgreesWithReferenceAndNotWithTheNumberOfThreads) {
  for (const auto& [B, S, C] : {std::tuple{2, 3, 5}, {1, 300, 20}, {2, 259, 133}}) {
    const Problem p(GetParam(), B, S, C);
    const std::vector<double> x = widened(p.x), y = widened(p.y), gate = widened(p.gate),
                              scale = widened(p.scale), shift = widened(p.shift),
                              of_sum = widened(p.grad_sum), of_out = widened(p.grad_out);
    std::vector<double> want_x(x.size()), want_y(x.size());
    std::vector<double> want(static_cast<std::size_t>(B * 3 * C));
    ref::residual_norm_backward({.grad_sum = p.c.adds ? of_sum.data() : nullptr,
                                 .grad_out = p.c.norms ? of_out.data() : nullptr,
                                 .x = x.data(),
                                 .y = p.c.adds ? y.data() : nullptr,
                                 .grad_x = want_x.data(),
                                 .grad_y = want_y.data(),
                                 .rule = p.rule<double>(gate, scale, shift)},
                                want.data());
    const int64_t parts = cpu::residual_norm_parts(S);
    const double bar = 16 * (static_cast<double>(C) / 4 + 12) * kHalfUlp;
    testing::on_every_target([&, B = B, S = S, C = C](const char* target) {
      const auto run = [&](const std::vector<Range>& ranges) {
        std::vector<float> grad_x(x.size(), -1.0F), grad_y(x.size(), -1.0F);
        std::vector<float> grads(static_cast<std::size_t>(B * parts * 3 * C), -1.0F);
        std::vector<float> row(static_cast<std::size_t>(C));
        for (const Range& range : ranges) {
          cpu::residual_norm_backward({.grad_sum = p.c.adds ? p.grad_sum.data() : nullptr,
                                       .grad_out = p.c.norms ? p.grad_out.data() : nullptr,
                                       .x = p.x.data(),
                                       .y = p.c.adds ? p.y.data() : nullptr,
                                       .grad_x = grad_x.data(),
                                       .grad_y = p.c.adds ? grad_y.data() : nullptr,
                                       .rule = p.rule<float>(p.gate, p.scale, p.shift)},
                                      grads.data(), row.data(), range);
        }
        return std::tuple{grad_x, grad_y, grads};
      };
      const auto got = run({{.begin = 0, .end = B * parts}});
      const auto& [grad_x, grad_y, grads] = got;
      for (std::size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(static_cast<double>(grad_x[i]), want_x[i], bar) << target << ", " << i;
        if (p.c.adds) {
          ASSERT_NEAR(static_cast<double>(grad_y[i]), want_y[i], bar) << target << ", " << i;
        }
      }
      for (int64_t b = 0; b < B; ++b) {
        for (int64_t i = 0; i < 3 * C; ++i) {
          double sum = 0;
          for (int64_t part = 0; part < parts; ++part) {
            sum += static_cast<double>(
                grads[static_cast<std::size_t>((b * parts + part) * 3 * C + i)]);
          }
          const double rows = static_cast<double>(S);
          ASSERT_NEAR(sum, want[static_cast<std::size_t>(b * 3 * C + i)],
                      rows * (bar + 16 * (std::min(rows, 256.0) / 4 + 2) * kHalfUlp))
              << target << ", " << i;
        }
      }
      std::vector<Range> apart;
      for (int64_t part = B * parts; part > 0; --part) {
        apart.push_back({.begin = part - 1, .end = part});
      }
      EXPECT_EQ(run(apart), got) << target;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ResidualNormCpu, kKinds);

}  // namespace
}  // namespace fastwan::kernels
