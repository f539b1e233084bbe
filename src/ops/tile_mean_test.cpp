#include "ops/tile_mean.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "support/compare.h"

namespace fastwan::ops {
namespace {

at::Tensor sizes_tensor(const std::vector<int32_t>& sizes) {
  return at::tensor(sizes, at::kInt);
}

// x [2, N*64, 3, 20] with NaN in the padding.
at::Tensor input_with_nan_padding(const at::Tensor& len) {
  const at::Tensor x = at::randn({2, len.size(0), 64, 3, 20}, at::kFloat);
  const at::Tensor padding = at::arange(64, len.options()).ge(len.unsqueeze(1));
  return x.masked_fill(padding.view({1, -1, 64, 1, 1}), std::nan("")).flatten(1, 2);
}

TEST(TileMeanOp, IsNoWorseThanThePlainVersionAndReadsNoPadding) {
  const at::Tensor len = sizes_tensor({1, 63, 64, 2, 17});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = input_with_nan_padding(len).to(type);
    const at::Tensor exact = tile_mean(x.to(at::kDouble), len, 64);  // the plain version
    // in order, as a plain loop would
    at::Tensor sum = at::zeros_like(exact, at::kFloat);
    for (int64_t t = 0; t < 64; ++t) {
      const at::Tensor slot = x.unflatten(1, {-1, 64}).select(2, t).to(at::kFloat);
      sum += slot.masked_fill(len.le(t).view({1, -1, 1, 1}), 0);
    }
    const at::Tensor plain = (sum / len.view({1, -1, 1, 1})).to(type);
    EXPECT_TRUE(testing::no_worse_than_plain(tile_mean(x, len, 64), plain, exact));
  }
}

TEST(TileMeanOp, GradientIsAnEqualShareForTokensAndZeroForPadding) {
  const at::Tensor len = sizes_tensor({1, 63, 64, 2});
  at::Tensor x = input_with_nan_padding(len).requires_grad_();
  const at::Tensor weight = at::randn({2, 4, 3, 20});
  (tile_mean(x, len, 64) * weight).sum().backward();
  const at::Tensor grad = x.grad().unflatten(1, {-1, 64});  // [2, N, 64, 3, 20]
  for (int64_t n = 0; n < 4; ++n) {
    const auto size = len[n].item<int64_t>();
    const at::Tensor share = weight.select(1, n) / size;
    for (int64_t t = 0; t < 64; ++t) {
      EXPECT_TRUE(testing::is_equal(grad.select(1, n).select(1, t),
                                    t < size ? share : at::zeros_like(share)));
    }
  }
}

TEST(TileMeanOp, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::randn({1, 128, 2, 8});
  const at::Tensor len = sizes_tensor({64, 5});
  EXPECT_NO_THROW(tile_mean(x, len, 64));
  EXPECT_THROW(tile_mean(x, sizes_tensor({64, 65}), 64), c10::ValueError);
  EXPECT_THROW(tile_mean(x, sizes_tensor({64, 0}), 64), c10::ValueError);
  EXPECT_THROW(tile_mean(x, sizes_tensor({64}), 64), c10::ValueError);
  EXPECT_THROW(tile_mean(x, len.to(at::kLong), 64), c10::ValueError);
  EXPECT_THROW(tile_mean(x.to(at::kInt), len, 64), c10::ValueError);
  EXPECT_THROW(tile_mean(x.select(0, 0), len, 64), c10::ValueError);
  EXPECT_THROW(tile_mean(x, len, 0), c10::ValueError);
}

}  // namespace
}  // namespace fastwan::ops
