// Operations over rows: norm_silu, rms_rotate and gelu against torch's own operators, residual_norm
// against its reference.
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/gelu.h>
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
#include "ops/gelu.h"
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

TEST(RmsRotateOp, IsNoWorseThanTorchsOperatorsWithAndWithoutRotationAndGradients) {
  const at::Tensor angle = at::randn({21, 1, 32}, at::kDouble);
  const at::Tensor turn = at::polar(angle.new_ones(angle.sizes()), angle);
  for (const bool is_rotated : {true, false}) {
    const auto leaf = [](const at::Tensor& x) { return x.clone().set_requires_grad(true); };
    const at::Tensor x = at::randn({2, 21, 3 * 64}), weight = at::randn({3 * 64});
    const at::Tensor grad_out = at::randn_like(x);
    const at::Tensor turns = is_rotated ? turn.to(at::kComplexFloat) : at::Tensor();
    const at::Tensor exact_x = leaf(x.to(at::kDouble)), exact_weight = leaf(weight.to(at::kDouble));
    const at::Tensor exact = plain_rms_rotate(
        exact_x, exact_weight, is_rotated ? turns.to(at::kComplexDouble) : at::Tensor());
    exact.backward(grad_out.to(at::kDouble));
    const at::Tensor plain_x = leaf(x), plain_weight = leaf(weight);
    const at::Tensor plain = plain_rms_rotate(plain_x, plain_weight, turns);
    plain.backward(grad_out);

    const at::Tensor got_x = leaf(x), got_weight = leaf(weight);
    const RmsRotateInputs in{.x = got_x, .weight = got_weight, .rotation = turns, .eps = 1e-6};
    ASSERT_TRUE(has_rms_rotate(in));
    const at::Tensor got = rms_rotate(in);
    got.backward(grad_out);
    EXPECT_TRUE(testing::no_worse_than_plain(got, plain, exact)) << is_rotated;
    EXPECT_TRUE(testing::no_worse_than_plain(got_x.grad(), plain_x.grad(), exact_x.grad()));
    EXPECT_TRUE(
        testing::no_worse_than_plain(got_weight.grad(), plain_weight.grad(), exact_weight.grad()));

    const at::NoGradGuard no_grad;
    RmsRotateInputs again = in;
    again.x = x.clone();
    const at::Tensor in_place = rms_rotate(again);
    EXPECT_TRUE(testing::is_equal(in_place, got)) << "with and without gradients the same bits";
    EXPECT_TRUE(in_place.is_alias_of(again.x));
  }
}

TEST(RmsRotateOp, LeavesOtherTypesToOthersAndRefusesWhatDoesNotFit) {
  const at::Tensor x = at::randn({1, 4, 12}), weight = at::randn({12});
  EXPECT_TRUE(has_rms_rotate({.x = x, .weight = weight}));
  EXPECT_FALSE(has_rms_rotate({.x = x.to(at::kBFloat16), .weight = weight.to(at::kBFloat16)}));
  EXPECT_FALSE(has_rms_rotate({.x = x.to(at::kDouble), .weight = weight.to(at::kDouble)}));
  const auto run = [&x](const at::Tensor& w, const at::Tensor& rotation) {
    return rms_rotate({.x = x, .weight = w, .rotation = rotation, .eps = 1e-6});
  };
  EXPECT_THROW(run(at::randn({11}), {}), c10::ValueError);
  EXPECT_THROW(run(weight, at::randn({4, 1, 3})), c10::ValueError);
  EXPECT_THROW(run(weight, at::randn({4, 1, 5}).to(at::kComplexFloat)), c10::ValueError);
  EXPECT_THROW(run(weight, at::randn({3, 1, 3}).to(at::kComplexFloat)), c10::ValueError);
}

TEST(GeluOp, IsNoWorseThanTorchsOperatorWithGradients) {
  const at::Tensor x = (3 * at::randn({2, 31, 17})).set_requires_grad(true);
  const at::Tensor plain_x = x.detach().clone().set_requires_grad(true);
  const at::Tensor exact_x = x.detach().to(at::kDouble).set_requires_grad(true);
  const at::Tensor grad_out = at::randn_like(plain_x);
  const at::Tensor got = tanh_gelu(x), plain = at::gelu(plain_x, "tanh");
  const at::Tensor exact = tanh_gelu(exact_x);  // float64: torch's
  got.backward(grad_out);
  plain.backward(grad_out);
  exact.backward(grad_out.to(at::kDouble));
  EXPECT_TRUE(testing::no_worse_than_plain(got, plain, exact));
  EXPECT_TRUE(testing::no_worse_than_plain(x.grad(), plain_x.grad(), exact_x.grad()));
  const at::NoGradGuard no_grad;
  const at::Tensor used_up = x.detach().clone();
  EXPECT_TRUE(testing::is_equal(tanh_gelu(used_up), got));
  EXPECT_TRUE(testing::is_equal(used_up, got));
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

// The kernels of the CPU against the plain version in float64, values and gradients; the same bits
// without gradients and in place.
TEST(ResidualNormOp, InFloat32IsNearItsPlainVersionInFloat64) {
  for (const Kind kind : {Kind{false, false, true, false}, Kind{true, true, true, true},
                          Kind{true, true, true, false}, Kind{true, false, true, false},
                          Kind{true, true, false, false}}) {
    constexpr int64_t kB = 3, kS = 300, kC = 40;
    std::vector<at::Tensor> values = {at::randn({kB, kS, kC}), at::randn({kB, kS, kC})};
    const at::Tensor of_sum = at::randn({kB, kS, kC}), of_out = at::randn({kB, kS, kC});
    const at::Tensor table = at::randn({kB, 3, kC});  // vectors are views of one table
    for (int64_t k = 0; k < 3; ++k) {
      values.push_back(kind.shares && k > 0 ? at::randn({kC}) : table.narrow(1, k, 1));
    }
    const std::vector<bool> is_there = {true, kind.adds, kind.gates, kind.norms, kind.norms};
    const auto inputs = [&](at::ScalarType type) {
      std::vector<at::Tensor> leaves;
      for (std::size_t i = 0; i < values.size(); ++i) {
        leaves.push_back(is_there[i] ? values[i].to(type).detach().set_requires_grad(true)
                                     : at::Tensor());
      }
      return leaves;
    };
    const auto run = [&](const std::vector<at::Tensor>& v) {
      return residual_norm({.x = v[0],
                            .y = v[1],
                            .gate = v[2],
                            .scale = v[3],
                            .shift = v[4],
                            .eps = 1e-6,
                            .adds_one = !kind.shares});
    };
    const auto backward = [&](const ResidualNormResults& results, at::ScalarType type) {
      at::Tensor total = at::zeros({}, type);
      if (kind.adds) {
        total = total + (results.sum * of_sum.to(type)).sum();
      }
      if (kind.norms) {
        total = total + (results.normed * of_out.to(type)).sum();
      }
      total.backward();
    };
    const auto got_in = inputs(at::kFloat), exact_in = inputs(at::kDouble);
    const ResidualNormResults got = run(got_in), exact = run(exact_in);
    backward(got, at::kFloat);
    backward(exact, at::kDouble);
    // Ten roundings and sums of up to 128 rows in a row, each half of 2^-24.
    constexpr double kBar = 1e-6;
    EXPECT_LT(testing::relative_l2(got.sum, exact.sum), kBar);
    if (kind.norms) {
      EXPECT_LT(testing::relative_l2(got.normed, exact.normed), kBar);
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (is_there[i]) {
        EXPECT_LT(testing::relative_l2(got_in[i].grad(), exact_in[i].grad()), kBar) << i;
      }
    }
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> again = got_in;
    again[1] = kind.adds ? values[1].clone() : at::Tensor();
    const ResidualNormResults in_place = run(again);
    EXPECT_TRUE(testing::is_equal(in_place.sum, got.sum));
    EXPECT_EQ(kind.adds, in_place.sum.is_alias_of(kind.adds ? again[1] : of_sum));
    if (kind.norms) {
      EXPECT_TRUE(testing::is_equal(in_place.normed, got.normed));
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
