#include "support/compare.h"

#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>

#include "base/shape.h"

namespace fastwan::testing {
namespace {

at::Tensor wide(const at::Tensor& x) {
  return x.to(at::kCPU, at::kDouble).contiguous().view({-1});
}

// Shapes agree, and what is not finite is not finite in the same places.
::testing::AssertionResult is_comparable(const at::Tensor& got, const at::Tensor& want) {
  if (got.sizes() != want.sizes()) {
    return ::testing::AssertionFailure()
           << "shape " << format_shape(got.sizes()) << ", wanted " << format_shape(want.sizes());
  }
  if (!at::isfinite(got).all().item<bool>()) {
    return ::testing::AssertionFailure() << "holds NaN or infinity";
  }
  return ::testing::AssertionSuccess();
}

double unit_in_last_place(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return 0x1p-7;
    case at::kHalf:
      return 0x1p-10;
    case at::kFloat:
      return 0x1p-23;
    default:
      return 0x1p-52;
  }
}

}  // namespace

double relative_l2(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor exact = wide(want);
  return (wide(got) - exact).norm().item<double>() /
         std::max(exact.norm().item<double>(), std::numeric_limits<double>::min());
}

double cosine(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = wide(got), b = wide(want);
  return a.dot(b).item<double>() / (a.norm().item<double>() * b.norm().item<double>());
}

::testing::AssertionResult is_close(const at::Tensor& got,
                                    const at::Tensor& want,
                                    const Tolerance& tolerance) {
  if (const auto comparable = is_comparable(got, want); !comparable) {
    return comparable;
  }
  if (want.numel() == 0) {
    return ::testing::AssertionSuccess();
  }
  const at::Tensor a = wide(got), b = wide(want);
  const at::Tensor off = at::abs(a - b);
  const auto worst = off.argmax().item<int64_t>();
  const double range = b.max().item<double>() - b.min().item<double>();
  const double allowed = tolerance.of_range * range;
  const double l2 = relative_l2(got, want);
  if (off[worst].item<double>() <= allowed && l2 <= tolerance.relative_l2) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << "worst element " << worst << " is " << a[worst].item<double>() << ", wanted "
         << b[worst].item<double>() << "; off by " << off[worst].item<double>() << ", allowed "
         << allowed << " (range " << range << "); relative L2 " << l2 << ", allowed "
         << tolerance.relative_l2;
}

::testing::AssertionResult is_equal(const at::Tensor& got, const at::Tensor& want) {
  if (got.sizes() != want.sizes() || got.scalar_type() != want.scalar_type()) {
    return ::testing::AssertionFailure()
           << "is " << got.scalar_type() << format_shape(got.sizes()) << ", wanted "
           << want.scalar_type() << format_shape(want.sizes());
  }
  if (at::equal(got, want)) {
    return ::testing::AssertionSuccess();
  }
  const at::Tensor off = at::abs(wide(got) - wide(want));
  const auto worst = off.argmax().item<int64_t>();
  return ::testing::AssertionFailure()
         << off.gt(0).sum().item<int64_t>() << " of " << off.numel()
         << " elements differ, most of all element " << worst << ": "
         << wide(got)[worst].item<double>() << ", wanted " << wide(want)[worst].item<double>();
}

::testing::AssertionResult no_worse_than_plain(const at::Tensor& got,
                                               const at::Tensor& plain,
                                               const at::Tensor& exact) {
  if (const auto comparable = is_comparable(got, exact); !comparable) {
    return comparable;
  }
  if (exact.numel() == 0) {
    return ::testing::AssertionSuccess();
  }
  const at::Tensor truth = wide(exact);
  const at::Tensor off = at::abs(wide(got) - truth);
  const at::Tensor plain_off = at::abs(wide(plain) - truth);
  // The largest error of the plain version counts for all: single elements may be lucky.
  const double ulp = unit_in_last_place(got.scalar_type());
  const at::Tensor allowed = 2.0 * plain_off.max() + ulp * at::abs(truth);
  const at::Tensor excess = off - allowed;
  const auto worst = excess.argmax().item<int64_t>();
  if (excess[worst].item<double>() <= 0) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << "worst element " << worst << " is " << wide(got)[worst].item<double>() << ", exactly "
         << truth[worst].item<double>() << "; off by " << off[worst].item<double>() << ", allowed "
         << allowed[worst].item<double>();
}

}  // namespace fastwan::testing
