#include "ops/video_sparse_attn.h"

#include <cmath>
#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "ops/tiles.h"
#include "ops/vsa_reference.h"
#include "support/compare.h"

namespace fastwan::ops {
namespace {

// The closed-form inputs of the published check: one head, d = 64.
at::Tensor formula(int64_t S, double (*of)(double, double)) {
  const int64_t D = 64;
  const at::Tensor out = at::empty({1, S, 1, D}, at::kDouble);
  for (int64_t s = 0; s < S; ++s) {
    for (int64_t c = 0; c < D; ++c) {
      out.data_ptr<double>()[s * D + c] = of(static_cast<double>(s), static_cast<double>(c));
    }
  }
  return out;
}

AttentionInputs formula_inputs(int64_t S) {
  return {.q = formula(S, [](double s, double c) { return std::sin(.05 * s + .31 * c); }),
          .k = formula(S, [](double s, double c) { return std::cos(.043 * s + .29 * c); }),
          .v = formula(S, [](double s, double c) { return std::sin(.017 * s * (1 + .01 * c)); }),
          .gate = formula(S, [](double s, double c) { return std::cos(.11 * s - .07 * c); })};
}

// A new draw at each call, the same in each run of a test.
AttentionInputs random_inputs(const Grid& grid, int64_t B, int64_t H, int64_t D) {
  const auto make = [&] { return at::randn({B, volume(grid), H, D}, at::kDouble); };
  return {.q = make(), .k = make(), .v = make(), .gate = make()};
}

AttentionInputs cast(const AttentionInputs& in, at::ScalarType type) {
  return {.q = in.q.to(type),
          .k = in.k.to(type),
          .v = in.v.to(type),
          .gate = in.gate.defined() ? in.gate.to(type) : in.gate};
}

double sum_of_squares(const at::Tensor& x) {
  return (x * x).sum().item<double>();
}

std::vector<double> of_head(const at::Tensor& x, int64_t b, int64_t h) {
  const at::Tensor dense = x.select(0, b).select(1, h).to(at::kDouble).contiguous();
  return {dense.const_data_ptr<double>(), dense.const_data_ptr<double>() + dense.numel()};
}

struct Whole {
  at::Tensor out;       // [B, S, H, D]
  double smallest_gap;  // between chosen and left out scores
};

Whole reference(const AttentionInputs& in, const Grid& grid, int64_t topk) {
  const int64_t B = in.q.size(0), S = in.q.size(1), H = in.q.size(2), D = in.q.size(3);
  Whole whole{.out = at::empty({B, S, H, D}, at::kDouble), .smallest_gap = 1e300};
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      const reference::Result one = reference::video_sparse_attn(
          {.T = grid[0],
           .H = grid[1],
           .W = grid[2],
           .D = D,
           .q = of_head(in.q, b, h),
           .k = of_head(in.k, b, h),
           .v = of_head(in.v, b, h),
           .gate = in.gate.defined() ? of_head(in.gate, b, h) : std::vector<double>()},
          topk);
      whole.smallest_gap = std::min(whole.smallest_gap, one.smallest_gap);
      for (int64_t s = 0; s < S; ++s) {
        for (int64_t c = 0; c < D; ++c) {
          whole.out.data_ptr<double>()[((b * S + s) * H + h) * D + c] =
              one.out[static_cast<std::size_t>(s * D + c)];
        }
      }
    }
  }
  return whole;
}

TEST(Vsa, GivesThePublishedNumbers) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  const AttentionInputs in = formula_inputs(210);
  struct Row {
    double sparsity, sum_of_squares, first, middle, last;
  };
  for (const Row& row : {Row{0, 2920.04160822, 1.20188330, 0.75323009, 0.04644238},
                         Row{.5, 6219.67022030, 1.20354118, 0.77391734, -1.17572368},
                         Row{.8, 7240.76441582, 1.15423493, 0.77659317, -1.13752555}}) {
    const at::Tensor out =
        VsaAttention({row.sparsity, TopkRule::kPadded}, true).forward(in, plan).squeeze();
    EXPECT_NEAR(sum_of_squares(out), row.sum_of_squares, 1e-8);
    EXPECT_NEAR(out[0][0].item<double>(), row.first, 1e-8);
    EXPECT_NEAR(out[100][17].item<double>(), row.middle, 1e-8);
    EXPECT_NEAR(out[209][63].item<double>(), row.last, 1e-8);
  }
}

TEST(Vsa, GivesThePublishedGradients) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  struct Row {
    double sparsity, q, k, v, gate;
  };
  for (const Row& row : {Row{.5, 17.96030074, 127.70562387, 5742.86443387, 913.65345135},
                         Row{.8, 13.41239613, 98.39174765, 8080.76728636, 913.65345135}}) {
    AttentionInputs in = formula_inputs(210);
    for (at::Tensor* x : {&in.q, &in.k, &in.v, &in.gate}) {
      x->requires_grad_();
    }
    VsaAttention({row.sparsity, TopkRule::kPadded}, true)
        .forward(in, plan)
        .backward(formula(210, [](double s, double c) { return std::cos(.013 * s + .2 * c); }));
    EXPECT_NEAR(sum_of_squares(in.q.grad()), row.q, 1e-8);
    EXPECT_NEAR(sum_of_squares(in.k.grad()), row.k, 1e-8);
    EXPECT_NEAR(sum_of_squares(in.v.grad()), row.v, 1e-8);
    EXPECT_NEAR(sum_of_squares(in.gate.grad()), row.gate, 1e-8);
    if (row.sparsity == .8) {
      const auto first = [](const at::Tensor& x) { return x.flatten()[0].item<double>(); };
      EXPECT_NEAR(first(in.q.grad()), 0.00042073, 1e-8);
      EXPECT_NEAR(first(in.k.grad()), 0.21048247, 1e-8);
      EXPECT_NEAR(first(in.v.grad()), 0.49948639, 1e-8);
      EXPECT_NEAR(first(in.gate.grad()), 0.40707284, 1e-8);
    }
  }
}

TEST(Vsa, AgreesWithTheReferenceTokenByToken) {
  const Grid grid{5, 6, 7};
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  for (const int64_t D : {64, 128}) {
    for (const double sparsity : {0.0, .5, .8, 1.0}) {
      const AttentionInputs in = random_inputs(grid, 2, 3, D);
      const int64_t topk = vsa_topk(sparsity, num_tiles(grid, kTile));
      const Whole want = reference(in, grid, topk);
      EXPECT_LE((video_sparse_attn_raster(in, plan, topk) - want.out).abs().max().item<double>(),
                1e-12);
      AttentionInputs no_gate = in;
      no_gate.gate = at::Tensor();
      EXPECT_LE((video_sparse_attn_raster(no_gate, plan, topk) - reference(no_gate, grid, topk).out)
                    .abs()
                    .max()
                    .item<double>(),
                1e-12);
    }
  }
}

TEST(Vsa, AgreesWithTheReferenceInFloat32WhereNoScoresNearlyTie) {
  const Grid grid{5, 6, 7};
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  int compared = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const AttentionInputs in = cast(random_inputs(grid, 1, 2, 64), at::kFloat);
    const Whole want = reference(in, grid, 4);
    if (want.smallest_gap < 1e-5) {  // rounding may choose otherwise
      continue;
    }
    ++compared;
    // float32 scores of size 5 err by a few ulps, 1e-6; outputs are averages of such weights
    EXPECT_LE((video_sparse_attn_raster(in, plan, 4) - want.out).abs().max().item<double>(), 1e-5);
  }
  EXPECT_GE(compared, 1);
}

TEST(Vsa, WithoutSparsityIsDenseAttentionPlusTheGatedCoarseTerm) {
  const Grid grid{5, 6, 7};
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  for (const int64_t D : {64, 128}) {
    AttentionInputs in = random_inputs(grid, 1, 2, D);
    const at::Tensor dense = FullAttention().forward(in, plan);
    const at::Tensor gated = VsaAttention({0, TopkRule::kPadded}, true).forward(in, plan);
    AttentionInputs halved = in;
    halved.gate = in.gate / 2;
    const at::Tensor half = VsaAttention({0, TopkRule::kPadded}, true).forward(halved, plan);
    // linear in the gate, and dense without it
    EXPECT_LE((2 * half - gated - dense).abs().max().item<double>(), 1e-12);
    EXPECT_GE((gated - dense).abs().max().item<double>(), 1e-3);
    in.gate = at::Tensor();
    const at::Tensor sparse = VsaAttention({0, TopkRule::kPadded}, false).forward(in, plan);
    EXPECT_LE((sparse - dense).abs().max().item<double>(), 1e-13);
  }
}

TEST(Vsa, GradientsAgreeWithFiniteDifferencesUnderAFrozenSelection) {
  const Grid grid{5, 6, 7};
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  AttentionInputs in;
  do {  // the selection stays the same along the step
    in = random_inputs(grid, 1, 1, 64);
  } while (reference(in, grid, 3).smallest_gap < 1e-4);
  const at::Tensor weight = at::randn(in.q.sizes(), at::kDouble);
  for (at::Tensor* x : {&in.q, &in.k, &in.v, &in.gate}) {
    x->requires_grad_();
  }
  (video_sparse_attn_raster(in, plan, 3) * weight).sum().backward();
  for (at::Tensor AttentionInputs::*member :
       {&AttentionInputs::q, &AttentionInputs::k, &AttentionInputs::v, &AttentionInputs::gate}) {
    const at::Tensor direction = at::randn(in.q.sizes(), at::kDouble);
    const auto loss_at = [&](double step) {
      AttentionInputs moved = in;
      moved.*member = (in.*member).detach() + step * direction;
      return (video_sparse_attn_raster(moved, plan, 3) * weight).sum().item<double>();
    };
    const double h = 1e-6;
    const double by_difference = (loss_at(h) - loss_at(-h)) / (2 * h);
    const auto by_gradient = ((in.*member).grad() * direction).sum().item<double>();
    EXPECT_NEAR(by_gradient, by_difference, 1e-6 * std::abs(by_difference) + 1e-7);
  }
}

TEST(Vsa, GivesTheSameBitsInEveryRunAndOnEveryNumberOfThreads) {
  const Grid grid{7, 17, 19};  // 50 tiles, most of them partial
  const AttentionPlan plan = plan_tiles(grid[0], grid[1], grid[2], at::kCPU);
  const int threads = at::get_num_threads();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const AttentionInputs in = cast(random_inputs(grid, 1, 4, 64), type);
    const auto run = [&](int num_threads) {
      at::set_num_threads(num_threads);
      AttentionInputs fresh = in;
      for (at::Tensor* x : {&fresh.q, &fresh.k, &fresh.v, &fresh.gate}) {
        *x = x->detach().clone().requires_grad_();
      }
      const at::Tensor out = video_sparse_attn_raster(fresh, plan, 9);
      (out * out).sum().backward();
      return std::vector<at::Tensor>{out.detach(), fresh.q.grad(), fresh.k.grad(), fresh.v.grad(),
                                     fresh.gate.grad()};
    };
    const std::vector<at::Tensor> first = run(1);
    for (const int num_threads : {1, 2, 3, 5}) {
      const std::vector<at::Tensor> again = run(num_threads);
      for (std::size_t i = 0; i < first.size(); ++i) {
        EXPECT_TRUE(testing::is_equal(first[i], again[i]))
            << type << ", result " << i << ", threads " << num_threads;
      }
    }
  }
  at::set_num_threads(threads);
}

using TiledOp = at::Tensor(const at::Tensor&,
                           const at::Tensor&,
                           const at::Tensor&,
                           const at::Tensor&,
                           const at::Tensor&,
                           int64_t,
                           at::IntArrayRef,
                           const std::optional<at::Tensor>&);

TEST(Vsa, TheTiledOperatorIsTheRasterOneAndAnAbsentWeightCountsAsOne) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  AttentionInputs in = random_inputs({5, 6, 7}, 2, 3, 64);
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("fastwan::video_sparse_attn", "")
                      .typed<TiledOp>();
  const auto tiled = [&](const at::Tensor& x) { return to_tiles(x, plan).transpose(1, 2); };
  const auto run = [&](const std::optional<at::Tensor>& weight) {
    const at::Tensor out =
        op.call(tiled(in.q), tiled(in.k), tiled(in.v), plan.tile_sizes.to(at::kLong),
                plan.tile_sizes, 3, {4, 4, 4}, weight);
    return to_raster(out.transpose(1, 2), plan);
  };
  EXPECT_LE(
      (run(tiled(in.gate)) - video_sparse_attn_raster(in, plan, 3)).abs().max().item<double>(),
      1e-14);
  in.gate = at::ones_like(in.gate);
  EXPECT_LE((run(std::nullopt) - video_sparse_attn_raster(in, plan, 3)).abs().max().item<double>(),
            1e-14);
}

TEST(Vsa, RefusesWhatDoesNotFitThePlan) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  const AttentionInputs good = formula_inputs(210);
  const auto refuses = [&](auto change) {
    AttentionInputs bad = good;
    change(bad);
    EXPECT_THROW(video_sparse_attn_raster(bad, plan, 2), c10::ValueError);
  };
  refuses([](AttentionInputs& in) { in.gate = in.gate.narrow(1, 0, 209); });
  refuses([](AttentionInputs& in) { in.q = in.q.narrow(1, 0, 209); });
  refuses([](AttentionInputs& in) { in.k = in.k.to(at::kFloat); });
  refuses([](AttentionInputs& in) { in.v = in.v.squeeze(0); });
  EXPECT_THROW(video_sparse_attn_raster(good, plan, 0), c10::ValueError);
  EXPECT_THROW(video_sparse_attn_raster(good, plan, 9), c10::ValueError);
}

}  // namespace
}  // namespace fastwan::ops
