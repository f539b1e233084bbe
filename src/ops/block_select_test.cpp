#include "ops/block_select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace fastwan::ops {
namespace {

using Chosen = std::vector<std::vector<int32_t>>;

Chosen rows_of(const at::Tensor& index) {
  const at::Tensor dense = index.contiguous();
  const int64_t K = dense.size(3);
  Chosen rows;
  for (int64_t r = 0; r < dense.numel() / K; ++r) {
    const int32_t* row = dense.const_data_ptr<int32_t>() + r * K;
    rows.emplace_back(row, row + K);
  }
  return rows;
}

at::Tensor one_row(const std::vector<double>& scores) {
  return at::tensor(scores, at::kDouble).view({1, 1, 1, -1});
}

TEST(BlockSelect, TakesTheLowestTilesOfEqualScores) {
  EXPECT_EQ(rows_of(block_select(at::zeros({1, 1, 2, 7}), 3)), (Chosen{{0, 1, 2}, {0, 1, 2}}));
  // three tiles share the last place that is left
  EXPECT_EQ(rows_of(block_select(one_row({0, -1, 0, 5, 0, -2}), 3)), (Chosen{{0, 2, 3}}));
  EXPECT_EQ(rows_of(block_select(one_row({2, 7, 2, 7, 2, 7}), 2)), (Chosen{{1, 3}}));
  // a minus zero equals a zero
  EXPECT_EQ(rows_of(block_select(one_row({-0.0, 0.0, -0.0, -1}), 2)), (Chosen{{0, 1}}));
}

TEST(BlockSelect, TakesExactlyKOfManyTiedRoundedScores) {
  // bf16 scores of 364 tiles tie at the boundary in most rows; values tiny against the row's range
  const at::Tensor scores =
      (at::randint(-40, 40, {2, 3, 5, 364}).to(at::kFloat) * 0x1p-9F).to(at::kBFloat16);
  const at::Tensor wide = scores.clone();
  wide.select(3, 100).fill_(1000);
  for (const at::Tensor& x : {scores, wide}) {
    for (const int64_t topk : {1, 73, 363, 364}) {
      const Chosen got = rows_of(block_select(x, topk));
      const at::Tensor exact = x.to(at::kDouble).contiguous();
      for (std::size_t r = 0; r < got.size(); ++r) {
        const double* row = exact.const_data_ptr<double>() + r * 364;
        std::vector<int32_t> order(364);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return row[a] > row[b]; });
        order.resize(static_cast<std::size_t>(topk));
        std::sort(order.begin(), order.end());
        ASSERT_EQ(got[r], order) << "row " << r << ", topk " << topk;
      }
    }
  }
}

TEST(BlockSelect, RefusesWhatItCannotChoose) {
  const at::Tensor scores = at::zeros({1, 1, 2, 7});
  EXPECT_THROW(block_select(scores, 0), c10::ValueError);
  EXPECT_THROW(block_select(scores, 8), c10::ValueError);
  EXPECT_THROW(block_select(scores.select(0, 0), 1), c10::ValueError);
  EXPECT_THROW(block_select(scores.to(at::kInt), 1), c10::ValueError);
}

}  // namespace
}  // namespace fastwan::ops
