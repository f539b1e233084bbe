// norm_silu and rms_rotate_: one pass over rows, against torch's own operators.
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/polar.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>
#include <gtest/gtest.h>

#include "ops/norm_silu.h"
#include "ops/rms_rotate.h"
#include "support/compare.h"

namespace fastwan::ops {
namespace {

at::Tensor plain_norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  const at::Tensor length = at::linalg_vector_norm(x, 2, {-1}, true).clamp_min(1e-12);
  return at::silu(x / length * std::sqrt(static_cast<double>(x.size(-1))) * gamma);
}

TEST(NormSiluOp, IsNoWorseThanTorchsOperatorsInPlaceToo) {
  for (const int64_t C : {3, 96, 384}) {
    at::Tensor x = at::randn({2, 3, 9, 31, C});
    const at::Tensor gamma = at::randn({C});
    const at::Tensor exact = plain_norm_silu(x.to(at::kDouble), gamma.to(at::kDouble));
    const at::Tensor got = norm_silu(x, gamma);
    EXPECT_TRUE(testing::no_worse_than_plain(got, plain_norm_silu(x, gamma), exact));
    norm_silu_(x, gamma);
    EXPECT_TRUE(testing::is_equal(x, got));
  }
  at::Tensor strided = at::randn({4, 6}).t();
  EXPECT_THROW(norm_silu_(strided, at::randn({4})), c10::ValueError);
  EXPECT_THROW(norm_silu(at::randn({4, 6}), at::randn({4})), c10::ValueError);
}

at::Tensor plain_rms_rotate(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& turn) {
  const at::Tensor y = at::rms_norm(x, {x.size(-1)}, weight, 1e-6);
  if (!turn.defined()) {
    return y;
  }
  const int64_t d = 2 * turn.size(-1);
  const at::Tensor pairs = at::view_as_complex(y.unflatten(-1, {-1, d / 2, 2}));  // [B, S, H, d/2]
  return at::view_as_real(pairs * turn).flatten(-3);
}

TEST(RmsRotateOp, IsNoWorseThanTorchsOperatorsWithAndWithoutRotation) {
  const at::NoGradGuard no_grad;
  const at::Tensor angle = at::randn({21, 1, 32}, at::kDouble);
  const at::Tensor turn = at::polar(angle.new_ones(angle.sizes()), angle);
  for (const bool is_rotated : {true, false}) {
    at::Tensor x = at::randn({2, 21, 3 * 64});
    const at::Tensor weight = at::randn({3 * 64});
    const at::Tensor turns = is_rotated ? turn.to(at::kComplexFloat) : at::Tensor();
    const at::Tensor exact =
        plain_rms_rotate(x.to(at::kDouble), weight.to(at::kDouble),
                         is_rotated ? turns.to(at::kComplexDouble) : at::Tensor());
    const at::Tensor plain = plain_rms_rotate(x, weight, turns);
    rms_rotate_(x, weight, turns, 1e-6);
    EXPECT_TRUE(testing::no_worse_than_plain(x, plain, exact)) << is_rotated;
  }
}

TEST(RmsRotateOp, LeavesGradientsToOthersAndRefusesWhatDoesNotFit) {
  at::Tensor x = at::randn({1, 4, 12});
  EXPECT_FALSE(has_rms_rotate(x));
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(has_rms_rotate(x));
  EXPECT_FALSE(has_rms_rotate(x.to(at::kBFloat16)));
  const at::Tensor weight = at::randn({12});
  EXPECT_THROW(rms_rotate_(x, at::randn({11}), {}, 1e-6), c10::ValueError);
  EXPECT_THROW(rms_rotate_(x, weight, at::randn({4, 1, 3}), 1e-6), c10::ValueError);
  EXPECT_THROW(rms_rotate_(x, weight, at::randn({4, 1, 5}).to(at::kComplexFloat), 1e-6),
               c10::ValueError);
  EXPECT_THROW(rms_rotate_(x, weight, at::randn({3, 1, 3}).to(at::kComplexFloat), 1e-6),
               c10::ValueError);
}

}  // namespace
}  // namespace fastwan::ops
