#include "eval/distances.h"

#include <cmath>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "support/golden.h"

namespace fastwan::eval {
namespace {

using testing::golden_tensor;

at::Tensor set_a() {
  return golden_tensor("distances", "a", {40, 6});
}
at::Tensor set_b() {
  return golden_tensor("distances", "b", {35, 6}, 0.4, 1.3);
}
double wanted(const std::string& name) {
  return testing::Golden("eval", "distances").tensor(name).item<double>();
}

TEST(Frechet, EqualsNumpysGeneralEigenvalues) {
  const double got = frechet_distance(fit_gaussian(set_a()), fit_gaussian(set_b()));
  EXPECT_NEAR(got, wanted("frechet"), 1e-10);
}

TEST(Frechet, OfGaussiansWithDiagonalCovariancesIsItsClosedForm) {
  const auto diagonal = [](std::initializer_list<double> variances, double mean) {
    at::Tensor covariance = at::zeros({3, 3}, at::kDouble);
    int64_t i = 0;
    for (const double variance : variances) {
      covariance[i][i] = variance;
      ++i;
    }
    return Gaussian{at::full({3}, mean, at::kDouble), covariance};
  };
  // 3 (1 - .5)^2 + (1 - 2)^2 + (2 - 2)^2 + (3 - 0)^2
  EXPECT_NEAR(frechet_distance(diagonal({1, 4, 9}, 1.0), diagonal({4, 4, 0}, 0.5)),
              0.75 + 1 + 0 + 9, 1e-12);
  const Gaussian same = diagonal({1, 4, 9}, 1.0);
  EXPECT_NEAR(frechet_distance(same, same), 0, 1e-12);
}

TEST(Frechet, OfEqualSetsIsNotBelowZero) {
  for (const int64_t n : {8, 30, 60}) {  // of 64 features: what rounding leaves of the null space
    const at::Tensor set = golden_tensor("distances", "few", {n, 64});
    const Estimate same = frechet_distance(set, set, Bootstrap{.resamples = 20});
    EXPECT_GE(same.value, 0) << n;
    EXPECT_LE(same.low, same.value) << n;
    EXPECT_NEAR(same.value, 0, 1e-5) << n;  // 64 roots of an ulp of covariances near 1
  }
}

TEST(Frechet, IntervalHoldsTheValueAndNarrowsWithMoreSamples) {
  const auto interval = [](int64_t n) {
    return frechet_distance(golden_tensor("distances", "wide", {n, 4}),
                            golden_tensor("distances", "other", {n, 4}, 0.5), Bootstrap{.seed = 3});
  };
  const Estimate few = interval(100), many = interval(1600);
  EXPECT_LE(few.low, few.value);
  EXPECT_GE(few.high, few.value);
  EXPECT_NEAR(many.value, 1.0, 0.2);  // 4 x .5^2, three standard errors
  // Sixteen times the samples: a quarter of the width, give or take.
  EXPECT_LT(many.high - many.low, 0.5 * (few.high - few.low));
  const Estimate again = interval(100);
  EXPECT_EQ(again.low, few.low);
  EXPECT_EQ(again.high, few.high);
}

// The upper end of the interval errs by sqrt(.025 * .975 / n) / .058 standard deviations of the
// resamples: 2 % of the interval's width for 1000 of them, 7 % for 100. Of eight seeds the farthest
// lie three such errors apart.
TEST(Frechet, IntervalHardlyDependsOnTheSeed) {
  double lowest = 1e9, highest = 0, width = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Estimate one =
        frechet_distance(golden_tensor("distances", "wide", {100, 4}),
                         golden_tensor("distances", "other", {100, 4}, 0.5), {.seed = seed});
    lowest = std::min(lowest, one.high);
    highest = std::max(highest, one.high);
    width = one.high - one.low;
  }
  EXPECT_LT(highest - lowest, 0.1 * width);
}

TEST(KernelDistance, EqualsTheSumsWrittenOut) {
  const Estimate got = kernel_distance(set_a(), set_b());
  EXPECT_NEAR(got.value, wanted("kid"), 1e-10);
  EXPECT_NEAR(got.high - got.value, kZ95 * wanted("kid_error"), 1e-10);
  EXPECT_NEAR(got.value - got.low, kZ95 * wanted("kid_error"), 1e-10);
}

TEST(KernelDistance, IsUnbiasedUnderEquality) {
  // Two samples of one law, 64 times: the mean is zero within three standard errors, and most
  // intervals hold zero.
  std::vector<double> values;
  int64_t holding = 0;
  for (int64_t i = 0; i < 64; ++i) {
    const Estimate kid = kernel_distance(golden_tensor("kid", str("x", i), {60, 5}),
                                         golden_tensor("kid", str("y", i), {60, 5}));
    values.push_back(kid.value);
    holding += kid.low <= 0 && kid.high >= 0 ? 1 : 0;
  }
  const MeanAndStd spread = mean_and_std(values);
  EXPECT_LT(std::abs(spread.mean), 3 * spread.std / 8);
  EXPECT_GE(holding, 54);
}

TEST(Manifold, EqualsCountingByHand) {
  const Manifold got = compare_manifolds(set_a(), set_b(), 5);
  EXPECT_NEAR(got.precision, wanted("precision"), 1e-12);
  EXPECT_NEAR(got.recall, wanted("recall"), 1e-12);
  EXPECT_NEAR(got.coverage, wanted("coverage"), 1e-12);
}

TEST(Manifold, ModelThatRepeatsOneRealPlaceIsPreciseAndCoversLittle) {
  const at::Tensor real = golden_tensor("manifold", "real", {200, 3});
  const at::Tensor collapsed =
      real.slice(0, 0, 1) + golden_tensor("manifold", "jitter", {200, 3}, 0, 1e-3);
  const Manifold got = compare_manifolds(real, collapsed);
  EXPECT_EQ(got.precision, 1);
  EXPECT_LT(got.recall, 0.05);
  EXPECT_LT(got.coverage, 0.1);
  const Manifold same = compare_manifolds(real, real);
  EXPECT_EQ(same.precision, 1);
  EXPECT_EQ(same.recall, 1);
  EXPECT_EQ(same.coverage, 1);
}

TEST(Wasserstein, InOneDimensionEqualsTheQuantileIntegral) {
  const auto sorted = [](const at::Tensor& x) {
    const at::Tensor column = std::get<0>(x.select(1, 0).to(at::kDouble).sort()).contiguous();
    return std::vector<double>(column.const_data_ptr<double>(),
                               column.const_data_ptr<double>() + column.numel());
  };
  EXPECT_NEAR(squared_wasserstein(sorted(set_a()), sorted(set_b())), wanted("wasserstein"), 1e-10);
  const std::vector<double> zero = {0, 0, 0}, one = {1, 1};
  EXPECT_NEAR(squared_wasserstein(zero, one), 1, 1e-12);
}

TEST(Wasserstein, OfAShiftIsItsMeanSquareAlongRandomDirections) {
  const at::Tensor a = set_a();
  EXPECT_EQ(sliced_wasserstein(a, a, {}), 0);
  // |c|^2 / d in expectation; 4096 directions leave an error of 2 %.
  const double distance = sliced_wasserstein(a, a + 0.5, {.projections = 4096});
  EXPECT_NEAR(distance * distance, 0.25, 0.02);
}

TEST(Distances, RefuseSetsThatDoNotFit) {
  EXPECT_THROW(kernel_distance(set_a(), set_b().slice(1, 0, 5)), InvalidInput);
  EXPECT_THROW(compare_manifolds(set_a().slice(0, 0, 5), set_b(), 5), InvalidInput);
  EXPECT_NO_THROW(compare_manifolds(set_a().slice(0, 0, 6), set_b(), 5));
  at::Tensor broken = set_a();
  broken[3][2] = NAN;
  EXPECT_THROW(frechet_distance(broken, set_b(), Bootstrap{}), InvalidInput);
}

}  // namespace
}  // namespace fastwan::eval
