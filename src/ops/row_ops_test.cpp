// Operations over rows: norm_silu and rms_rotate_ against torch's own operators, residual_norm
// against its reference.
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/polar.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "kernels/residual_norm/residual_norm.h"
#include "ops/linear.h"
#include "ops/norm_silu.h"
#include "ops/residual_norm.h"
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

TEST(SumOfRows, IsTheSumOverRowsAroundThePartialSumsSize) {
  for (const int64_t N : {0, 1, 511, 512, 513, 1536, 1600}) {
    for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const at::Tensor x = at::randn({N, 5}, at::kDouble).to(type);
      const at::Tensor got = sum_of_rows(x), want = x.to(at::kDouble).sum(0);
      EXPECT_EQ(got.scalar_type(), type);
      // Sums in float32 err by 2^-24 of the sum of sizes an addition at most; bf16 rounds once
      // more.
      const at::Tensor sizes = x.to(at::kDouble).abs().sum(0);
      const double rounding = type == at::kBFloat16 ? std::ldexp(1.0, -8) : 0;
      const double an_addition = std::ldexp(1.0, type == at::kDouble ? -53 : -24);
      const at::Tensor limit =
          sizes * (an_addition * static_cast<double>(N)) + want.abs() * rounding;
      EXPECT_TRUE((got.to(at::kDouble) - want).abs().le(limit).all().item<bool>())
          << N << " " << type;
    }
  }
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

struct Kind {
  bool adds, gates, norms, shares;
};

// The plain version in float64, values and gradients, and in place where no gradient is wanted.
TEST(ResidualNormOp, IsItsReferenceWithGradients) {
  for (const Kind kind : {Kind{false, false, true, false}, Kind{true, true, true, true},
                          Kind{true, true, true, false}, Kind{true, false, true, false},
                          Kind{true, true, false, false}}) {
    constexpr int64_t kB = 2, kS = 5, kC = 12;
    const auto wide = at::TensorOptions(at::kDouble);
    const auto leaf = [&](bool is_there, at::IntArrayRef sizes) {
      return is_there ? at::randn(sizes, wide).set_requires_grad(true) : at::Tensor();
    };
    const std::vector<int64_t> of_samples = {kB, 1, kC}, of_all = {kC};
    const at::Tensor x = leaf(true, {kB, kS, kC}), y = leaf(kind.adds, {kB, kS, kC});
    const at::Tensor gate = leaf(kind.gates, of_samples);
    const at::Tensor scale = leaf(kind.norms, kind.shares ? of_all : of_samples);
    const at::Tensor shift = leaf(kind.norms, kind.shares ? of_all : of_samples);
    const ResidualNormInputs in{.x = x,
                                .y = y,
                                .gate = gate,
                                .scale = scale,
                                .shift = shift,
                                .eps = 1e-6,
                                .adds_one = !kind.shares,
                                .reads_rounded = false};
    const ResidualNormResults got = residual_norm(in);

    const auto rows = [](const at::Tensor& vector) {
      return kernels::PerSample<double>{
          .data = vector.defined() ? vector.const_data_ptr<double>() : nullptr,
          .stride = vector.defined() && vector.dim() == 3 ? kC : 0};
    };
    const kernels::ResidualNormRule<double> rule{.gate = rows(gate),
                                                 .scale = rows(scale),
                                                 .shift = rows(shift),
                                                 .B = kB,
                                                 .S = kS,
                                                 .C = kC,
                                                 .eps = 1e-6,
                                                 .adds_one = !kind.shares};
    const at::Tensor sum = at::zeros({kB, kS, kC}, wide), out = at::zeros({kB, kS, kC}, wide);
    const double* const y_data = kind.adds ? y.const_data_ptr<double>() : nullptr;
    kernels::ref::residual_norm({.x = x.const_data_ptr<double>(),
                                 .y = y_data,
                                 .sum = sum.mutable_data_ptr<double>(),
                                 .out = out.mutable_data_ptr<double>(),
                                 .rule = rule});
    EXPECT_LT(testing::relative_l2(got.sum, sum), 1e-14);
    const at::Tensor of_sum = at::randn({kB, kS, kC}, wide), of_out = at::randn_like(of_sum);
    at::Tensor total = kind.adds ? (got.sum * of_sum).sum() : at::zeros({}, wide);
    if (kind.norms) {
      EXPECT_LT(testing::relative_l2(got.normed, out), 1e-14);
      total = total + (got.normed * of_out).sum();
    }
    total.backward();

    const at::Tensor grad_x = at::zeros_like(sum), grad_y = at::zeros_like(sum);
    const at::Tensor grads = at::zeros({kB, 3, kC}, wide);
    kernels::ref::residual_norm_backward(
        {.grad_sum = kind.adds ? of_sum.const_data_ptr<double>() : nullptr,
         .grad_out = kind.norms ? of_out.const_data_ptr<double>() : nullptr,
         .x = x.const_data_ptr<double>(),
         .y = y_data,
         .grad_x = grad_x.mutable_data_ptr<double>(),
         .grad_y = grad_y.mutable_data_ptr<double>(),
         .rule = rule},
        grads.mutable_data_ptr<double>());
    EXPECT_LT(testing::relative_l2(x.grad(), grad_x), 1e-13);
    if (kind.adds) {
      EXPECT_LT(testing::relative_l2(y.grad(), grad_y), 1e-13);
    }
    int64_t which = 0;
    for (const at::Tensor& vector : {gate, scale, shift}) {
      const at::Tensor of_rows = grads.select(1, which++);  // [B, C]
      if (vector.defined()) {
        const at::Tensor want = vector.dim() == 1 ? of_rows.sum(0) : of_rows.unsqueeze(1);
        EXPECT_LT(testing::relative_l2(vector.grad(), want), 1e-13) << which;
      }
    }

    const at::NoGradGuard no_grad;
    ResidualNormInputs again = in;
    again.y = kind.adds ? y.detach().clone() : at::Tensor();  // it may be used up
    const ResidualNormResults plain = residual_norm(again);
    EXPECT_TRUE(testing::is_equal(plain.sum, got.sum));
    if (kind.norms) {
      EXPECT_TRUE(testing::is_equal(plain.normed, got.normed));
    }
  }
}

TEST(ResidualNormOp, RoundsWhereItIsTold) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({2, 5, 64}).to(at::kBFloat16), y = at::randn_like(x);
  const at::Tensor gate = at::randn({2, 1, 64}), scale = at::randn({2, 1, 64}),
                   shift = at::randn({2, 1, 64});
  const at::Tensor exact = at::addcmul(x.to(at::kFloat), y.to(at::kFloat), gate);
  for (const bool reads_rounded : {true, false}) {
    for (const bool rounds_norm : {true, false}) {
      const auto got = residual_norm({.x = x,
                                      .y = y.clone(),
                                      .gate = gate,
                                      .scale = scale,
                                      .shift = shift,
                                      .eps = 1e-6,
                                      .rounds_norm = rounds_norm,
                                      .reads_rounded = reads_rounded});
      EXPECT_TRUE(testing::is_equal(got.sum, exact.to(at::kBFloat16)));
      const at::Tensor read = reads_rounded ? got.sum.to(at::kFloat) : exact;
      at::Tensor norm = at::layer_norm(read, {64}, {}, {}, 1e-6);
      norm = rounds_norm ? norm.to(at::kBFloat16).to(at::kFloat) : norm;
      EXPECT_TRUE(
          testing::is_equal(got.normed, at::addcmul(shift, norm, 1 + scale).to(at::kBFloat16)));
    }
  }
}

}  // namespace
}  // namespace fastwan::ops
