#include "kernels/rms_rotate/rms_rotate.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/central_differences.h"
#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

struct Case {
  int64_t R, H, d, S;
  bool has_rotation;
};

template <class Number>
std::vector<Number> weights_of(int64_t C) {
  std::vector<Number> weights;
  for (int64_t i = 0; i < C; ++i) {
    weights.push_back(static_cast<Number>(1.0 + 0.5 * std::cos(1.3 * static_cast<double>(i))));
  }
  return weights;
}

template <class Number>
std::vector<Number> rotation_of(int64_t pairs) {  // cosine and sine of each
  std::vector<Number> rotation;
  for (int64_t i = 0; i < pairs; ++i) {
    rotation.push_back(static_cast<Number>(std::cos(0.7 * static_cast<double>(i))));
    rotation.push_back(static_cast<Number>(std::sin(0.7 * static_cast<double>(i))));
  }
  return rotation;
}

// The sum of C squares is off by at most C / 2 + 2 half ulps relative, six roundings follow, and
// the pair's length bounds both products.
TEST(RmsRotate, AgreesWithReferenceOnEveryInstructionSetInPlaceToo) {
  for (const Case& c : {Case{6, 3, 16, 3, true}, Case{4, 2, 10, 4, true}, Case{3, 1, 2, 1, true},
                        Case{3, 4, 7, 1, false}, Case{4, 12, 128, 2, true}}) {
    const int64_t C = c.H * c.d;
    const std::vector<float> weight = weights_of<float>(C),
                             rotation = rotation_of<float>(c.S * c.d / 2);
    std::vector<float> x;
    for (int64_t i = 0; i < c.R * C; ++i) {
      const double size = i / C == 1 ? 0.0 : std::exp2(4.0 * static_cast<double>(i / C) - 8.0);
      x.push_back(static_cast<float>(size * std::sin(0.37 * static_cast<double>(i) + 1.0)));
    }
    const std::vector<double> wide(x.begin(), x.end()), wide_weight(weight.begin(), weight.end());
    const std::vector<double> wide_rotation(rotation.begin(), rotation.end());
    std::vector<double> want(x.size());
    ref::rms_rotate<double>({.x = wide.data(),
                             .weight = wide_weight.data(),
                             .rotation = c.has_rotation ? wide_rotation.data() : nullptr,
                             .out = want.data(),
                             .C = C,
                             .d = c.d,
                             .S = c.S,
                             .eps = 1e-6},
                            {.begin = 0, .end = c.R});
    testing::on_every_target([&](const char* target) {
      std::vector<float> got = x;
      const RmsRotateArgs<float> args{.x = got.data(),
                                      .weight = weight.data(),
                                      .rotation = c.has_rotation ? rotation.data() : nullptr,
                                      .out = got.data(),
                                      .C = C,
                                      .d = c.d,
                                      .S = c.S,
                                      .eps = 1e-6};
      cpu::rms_rotate(args, {.begin = 1, .end = c.R});
      cpu::rms_rotate(args, {.begin = 0, .end = 1});
      for (std::size_t i = 0; i < want.size(); ++i) {
        const std::size_t pair = i / 2 * 2;
        const double length = std::hypot(want[pair], want[std::min(pair + 1, want.size() - 1)]);
        const double relative = (static_cast<double>(C) / 4 + 10) * 0x1p-24;
        ASSERT_NEAR(static_cast<double>(got[i]), want[i], relative * length) << target << ", " << i;
      }
    });
  }
}

TEST(RmsRotate, BackwardIsTheGradientOfForward) {
  for (const bool has_rotation : {true, false}) {
    constexpr int64_t kR = 4, kH = 2, kD = 4, kC = kH * kD, kS = 2;
    std::vector<double> weight = weights_of<double>(kC), x, upstream;
    const std::vector<double> rotation = rotation_of<double>(kS * kD / 2);
    for (int64_t i = 0; i < kR * kC; ++i) {
      x.push_back(std::sin(1.0 + 1.7 * static_cast<double>(i)));
      upstream.push_back(std::cos(2.0 + 1.3 * static_cast<double>(i)));
    }
    const double* const turns = has_rotation ? rotation.data() : nullptr;
    const auto sum = [&] {
      std::vector<double> out(x.size());
      ref::rms_rotate<double>({.x = x.data(),
                               .weight = weight.data(),
                               .rotation = turns,
                               .out = out.data(),
                               .C = kC,
                               .d = kD,
                               .S = kS,
                               .eps = 1e-6},
                              {.begin = 0, .end = kR});
      double value = 0;
      for (std::size_t i = 0; i < out.size(); ++i) {
        value += out[i] * upstream[i];
      }
      return value;
    };
    std::vector<double> grad_x(x.size()), grad_weight(weight.size());
    ref::rms_rotate_backward({.grad_out = upstream.data(),
                              .x = x.data(),
                              .weight = weight.data(),
                              .rotation = turns,
                              .grad_x = grad_x.data(),
                              .C = kC,
                              .d = kD,
                              .S = kS,
                              .eps = 1e-6},
                             grad_weight.data(), {.begin = 0, .end = kR});
    testing::expect_gradient(x, grad_x, sum);
    testing::expect_gradient(weight, grad_weight, sum);
  }
}

// The scale is off by C / 4 + 3 half ulps, the mean of products by as many of |g w n| <= 3, and six
// roundings follow; over 300 rows, sums of at most 256 add a quarter of that and a part's two.
TEST(RmsRotate, CpuBackwardAgreesWithReferenceAndNotWithTheNumberOfThreads) {
  for (const Case& c : {Case{6, 3, 16, 3, true}, Case{300, 2, 10, 4, true}, Case{3, 1, 2, 1, true},
                        Case{257, 4, 7, 1, false}, Case{4, 12, 128, 2, true}}) {
    const int64_t C = c.H * c.d;
    const std::vector<float> weight = weights_of<float>(C),
                             rotation = rotation_of<float>(c.S * c.d / 2);
    std::vector<float> x, grad_out;
    for (int64_t i = 0; i < c.R * C; ++i) {
      x.push_back(static_cast<float>(std::sin(0.37 * static_cast<double>(i) + 1.0)));
      grad_out.push_back(static_cast<float>(std::cos(0.53 * static_cast<double>(i) + 2.0)));
    }
    const std::vector<double> wide(x.begin(), x.end()), wide_weight(weight.begin(), weight.end());
    const std::vector<double> wide_grad(grad_out.begin(), grad_out.end());
    const std::vector<double> wide_rotation(rotation.begin(), rotation.end());
    std::vector<double> want(x.size()), want_weight(weight.size());
    ref::rms_rotate_backward({.grad_out = wide_grad.data(),
                              .x = wide.data(),
                              .weight = wide_weight.data(),
                              .rotation = c.has_rotation ? wide_rotation.data() : nullptr,
                              .grad_x = want.data(),
                              .C = C,
                              .d = c.d,
                              .S = c.S,
                              .eps = 1e-6},
                             want_weight.data(), {.begin = 0, .end = c.R});
    const int64_t parts = cpu::rms_rotate_parts(c.R);
    // 1 / sqrt(mean(x^2)) is at most 2, but for the case of two channels
    const double scale = C > 2 ? 2 : 8;
    const double bar = 3 * scale * scale * (static_cast<double>(C) / 2 + 12) * 0x1p-24;
    testing::on_every_target([&](const char* target) {
      const auto run = [&](const std::vector<Range>& ranges) {
        std::vector<float> grad_x(x.size(), -1.0F);
        std::vector<float> grads(static_cast<std::size_t>(parts * C), -1.0F);
        for (const Range& range : ranges) {
          cpu::rms_rotate_backward({.grad_out = grad_out.data(),
                                    .x = x.data(),
                                    .weight = weight.data(),
                                    .rotation = c.has_rotation ? rotation.data() : nullptr,
                                    .grad_x = grad_x.data(),
                                    .C = C,
                                    .d = c.d,
                                    .S = c.S,
                                    .eps = 1e-6},
                                   grads.data(), c.R, range);
        }
        return std::pair{grad_x, grads};
      };
      const auto got = run({{.begin = 0, .end = parts}});
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(static_cast<double>(got.first[i]), want[i], bar) << target << ", " << i;
      }
      for (int64_t i = 0; i < C; ++i) {
        double sum = 0;
        for (int64_t part = 0; part < parts; ++part) {
          sum += static_cast<double>(got.second[static_cast<std::size_t>(part * C + i)]);
        }
        const auto rows = static_cast<double>(c.R);
        ASSERT_NEAR(sum, want_weight[static_cast<std::size_t>(i)],
                    rows * (bar + 2 * scale * (std::min(rows, 256.0) / 4 + 2) * 0x1p-24))
            << target << ", " << i;
      }
      std::vector<Range> apart;
      for (int64_t part = parts; part > 0; --part) {
        apart.push_back({.begin = part - 1, .end = part});
      }
      EXPECT_EQ(run(apart), got) << target;
    });
  }
}

}  // namespace
}  // namespace fastwan::kernels
