// Whether a reference's backward is the gradient of its forward.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

namespace fastwan::kernels::testing {

// Central differences of `sum` over `values`, which it reads. Truncation is step^2 of the third
// derivative, rounding 2^-53 of the sum over the step: both stay below 1e-8 for sums near one.
inline void expect_gradient(std::vector<double>& values,
                            const std::vector<double>& gradient,
                            const std::function<double()>& sum) {
  constexpr double kStep = 1e-6;
  ASSERT_EQ(values.size(), gradient.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double kept = values[i];
    values[i] = kept + kStep;
    const double above = sum();
    values[i] = kept - kStep;
    const double below = sum();
    values[i] = kept;
    EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-8) << i;
  }
}

}  // namespace fastwan::kernels::testing
