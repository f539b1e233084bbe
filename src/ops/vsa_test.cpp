#include "ops/vsa.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::ops {
namespace {

std::vector<int64_t> values_of(const at::Tensor& x) {
  const at::Tensor dense = x.to(at::kLong).contiguous();
  return {dense.data_ptr<int64_t>(), dense.data_ptr<int64_t>() + dense.numel()};
}

// The closed-form inputs of the published check: one head, d = 64.
AttentionInputs formula_inputs(int64_t S) {
  const int64_t D = 64;
  AttentionInputs in;
  const auto make = [&](auto formula) {
    const at::Tensor out = at::empty({1, S, 1, D}, at::kDouble);
    for (int64_t s = 0; s < S; ++s) {
      for (int64_t c = 0; c < D; ++c) {
        out.data_ptr<double>()[s * D + c] =
            formula(static_cast<double>(s), static_cast<double>(c));
      }
    }
    return out;
  };
  in.q = make([](double s, double c) { return std::sin(.05 * s + .31 * c); });
  in.k = make([](double s, double c) { return std::cos(.043 * s + .29 * c); });
  in.v = make([](double s, double c) { return std::sin(.017 * s * (1 + .01 * c)); });
  in.gate = make([](double s, double c) { return std::cos(.11 * s - .07 * c); });
  return in;
}

TEST(Plan, RaggedGridsAreCompacted) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  EXPECT_EQ(values_of(plan.tile_sizes), (std::vector<int64_t>{64, 48, 32, 24, 16, 12, 8, 6}));
  const std::vector<int64_t> order = values_of(plan.tile_index);
  EXPECT_EQ(std::vector<int64_t>(order.begin(), order.begin() + 9),
            (std::vector<int64_t>{0, 1, 2, 3, 7, 8, 9, 10, 14}));
  EXPECT_EQ(std::vector<int64_t>(order.begin() + 64, order.begin() + 72),
            (std::vector<int64_t>{4, 5, 6, 11, 12, 13, 18, 19}));
}

TEST(Plan, TilesAndBackIsTheIdentity) {
  for (const auto& [T, H, W] : std::vector<std::array<int64_t, 3>>{
           {4, 4, 4}, {5, 6, 7}, {1, 1, 1}, {3, 9, 5}, {21, 30, 52}}) {
    const AttentionPlan plan = plan_tiles(T, H, W, at::kCPU);
    const at::Tensor x =
        at::arange(T * H * W * 2, at::kFloat).view({1, T * H * W, 1, 2});
    const at::Tensor tiled = to_tiles(x, plan);
    EXPECT_TRUE(at::equal(to_raster(tiled, plan), x));
    EXPECT_EQ(tiled.count_nonzero().item<int64_t>(), x.count_nonzero().item<int64_t>());
    // the j-th token in tile order lies in its slot
    EXPECT_TRUE(at::equal(tiled.index_select(1, plan.non_pad), x.index_select(1, plan.tile_index)));
  }
  EXPECT_THROW(plan_tiles(0, 4, 4, at::kCPU), InvalidInput);
}

TEST(Topk, FollowsTheTable) {
  EXPECT_EQ(vsa_topk(.8, 624), 125);
  EXPECT_EQ(vsa_topk_unpadded(.8, 32760, 624), 103);
  EXPECT_EQ(vsa_topk(.9, 624), 63);
  EXPECT_EQ(vsa_topk_unpadded(.9, 32760, 624), 52);
  EXPECT_EQ(vsa_topk(.9, 1440), 144);
  EXPECT_EQ(vsa_topk(0, 5), 5);
  EXPECT_EQ(vsa_topk(1, 5), 1);
  EXPECT_EQ(vsa_topk(.99, 1), 1);
  EXPECT_THROW(vsa_topk(1.5, 4), InvalidInput);
  EXPECT_THROW(vsa_topk(std::nan(""), 4), InvalidInput);
}

TEST(BlockSelect, TakesTheLowestTileOfEqualScores) {
  const at::Tensor scores = at::zeros_like(at::empty({1, 1, 2, 7}, at::kFloat));
  scores.data_ptr<float>()[7 + 5] = 1;
  const at::Tensor index = block_select(scores, 3);
  EXPECT_EQ(values_of(index), (std::vector<int64_t>{0, 1, 2, 0, 1, 5}));
  EXPECT_THROW(block_select(scores, 0), InvalidInput);
  EXPECT_THROW(block_select(scores, 8), InvalidInput);
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
    EXPECT_NEAR((out * out).sum().item<double>(), row.sum_of_squares, 1e-7);
    EXPECT_NEAR(out[0][0].item<double>(), row.first, 1e-8);
    EXPECT_NEAR(out[100][17].item<double>(), row.middle, 1e-8);
    EXPECT_NEAR(out[209][63].item<double>(), row.last, 1e-8);
  }
}

TEST(Vsa, WithoutSparsityAndGateIsDenseAttention) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  AttentionInputs in = formula_inputs(210);
  in.gate = at::Tensor();
  const at::Tensor sparse = VsaAttention({0, TopkRule::kPadded}, false).forward(in, plan);
  const at::Tensor dense = FullAttention().forward(in, plan);
  EXPECT_LT((sparse - dense).abs().max().item<double>(), 1e-14);
}

TEST(Vsa, RefusesShapesThatDoNotFitThePlan) {
  const AttentionPlan plan = plan_tiles(5, 6, 7, at::kCPU);
  AttentionInputs in = formula_inputs(210);
  in.gate = in.gate.narrow(1, 0, 209);
  EXPECT_THROW(video_sparse_attn_raster(in, plan, 2), InvalidInput);
}

}  // namespace
}  // namespace fastwan::ops
