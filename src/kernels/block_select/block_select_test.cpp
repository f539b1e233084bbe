#include "kernels/block_select/block_select.h"

#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace fastwan::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::vector<int32_t> select(const std::vector<double>& scores, int64_t K) {
  std::vector<int32_t> index(static_cast<std::size_t>(K), -1);
  ref::block_select<double>({.scores = scores.data(),
                             .index = index.data(),
                             .dims = {.R = 1, .N = static_cast<int64_t>(scores.size()), .K = K}});
  return index;
}

TEST(BlockSelectReference, TakesTheHighestAndOfEqualScoresTheLowestTile) {
  EXPECT_EQ(select({3, 1, 2}, 2), (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(select({0, -1, 0, 5, 0, -2}, 3), (std::vector<int32_t>{0, 2, 3}));
  EXPECT_EQ(select({-0.0, 0.0, -0.0, -1}, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(select({-kInfinity, -1e300, kInfinity}, 3), (std::vector<int32_t>{0, 1, 2}));
}

TEST(BlockSelectReference, CountsNotANumberOfEitherSignAsHighest) {
  EXPECT_EQ(select({kInfinity, kNaN, 1, -kNaN}, 2), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(select({kNaN, kInfinity, kNaN, kNaN}, 2), (std::vector<int32_t>{0, 2}));
}

TEST(Fp16, IsReadAsTheStandardHasIt) {
  EXPECT_EQ(to_double(Fp16{0x3C00}), 1.0);
  EXPECT_EQ(to_double(Fp16{0xC001}), -2.0 - 0x1p-9);
  EXPECT_EQ(to_double(Fp16{0x0001}), 0x1p-24);
  EXPECT_EQ(to_double(Fp16{0x0400}), 0x1p-14);
  EXPECT_EQ(to_double(Fp16{0x7BFF}), 65504.0);
  EXPECT_EQ(to_double(Fp16{0xFC00}), -kInfinity);
  EXPECT_TRUE(std::isnan(to_double(Fp16{0x7E00})));
}

}  // namespace
}  // namespace fastwan::kernels
