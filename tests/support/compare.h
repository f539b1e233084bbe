// Comparators of tensors: each prints the worst element and both values.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace fastwan::testing {

struct Tolerance {
  double of_range = 0;     // largest difference, as a share of (max - min) of the wanted values
  double relative_l2 = 0;  // |got - want| / |want|
};
// Models in fp32: reordering alone was measured at 3.4e-6 and 5e-7.
inline constexpr Tolerance kModelFp32{.of_range = 2e-5, .relative_l2 = 5e-6};

::testing::AssertionResult is_close(const at::Tensor& got,
                                    const at::Tensor& want,
                                    const Tolerance& tolerance);

// Every bit the same, dtype and shape too.
::testing::AssertionResult is_equal(const at::Tensor& got, const at::Tensor& want);

// A kernel against its exact (fp64) result: each element off by at most twice the error of the
// plain version in the same type, plus one ulp of that type at the exact value.
::testing::AssertionResult no_worse_than_plain(const at::Tensor& got,
                                               const at::Tensor& plain,
                                               const at::Tensor& exact);

double relative_l2(const at::Tensor& got, const at::Tensor& want);
double cosine(const at::Tensor& got, const at::Tensor& want);

}  // namespace fastwan::testing
