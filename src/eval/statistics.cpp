#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/special_gammaincc.h>

#include "base/check.h"

namespace fastwan::eval {

Estimate wilson(int64_t successes, int64_t n, double z) {
  invariant(successes >= 0 && successes <= n, "successes are between 0 and the number of trials");
  if (n == 0) {
    return {.value = 0, .low = 0, .high = 1};
  }
  const auto trials = static_cast<double>(n);
  const double share = static_cast<double>(successes) / trials;
  const double shrink = 1 + z * z / trials;
  const double middle = (share + z * z / (2 * trials)) / shrink;
  const double half =
      z * std::sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / shrink;
  // At its ends the interval ends at 0 and 1 exactly, which rounding misses.
  return {.value = share,
          .low = successes == 0 ? 0 : std::max(0.0, middle - half),
          .high = successes == n ? 1 : std::min(1.0, middle + half)};
}

double chi_squared_tail(double statistic, int64_t freedom) {
  return at::special_gammaincc(at::scalar_tensor(static_cast<double>(freedom) / 2, at::kDouble),
                               at::scalar_tensor(statistic / 2, at::kDouble))
      .item<double>();
}

ChiSquared test_uniform(std::span<const int64_t> counts) {
  invariant(counts.size() >= 2, "a test of uniformity has two bins or more");
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  ChiSquared result{.freedom = static_cast<int64_t>(counts.size()) - 1};
  if (total == 0) {
    return result;
  }
  const double expected = total / static_cast<double>(counts.size());
  for (const int64_t count : counts) {
    const double off = static_cast<double>(count) - expected;
    result.statistic += off * off / expected;
  }
  result.p = chi_squared_tail(result.statistic, result.freedom);
  return result;
}

std::vector<int64_t> histogram(std::span<const double> values, int64_t bins) {
  std::vector<int64_t> counts(static_cast<std::size_t>(bins));
  for (const double value : values) {
    const auto bin = static_cast<int64_t>(std::floor(value * static_cast<double>(bins)));
    ++counts[static_cast<std::size_t>(std::clamp<int64_t>(bin, 0, bins - 1))];
  }
  return counts;
}

MeanAndStd mean_and_std(std::span<const double> values) {
  if (values.empty()) {
    return {};
  }
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) {
    squares += (value - mean) * (value - mean);
  }
  return {.mean = mean, .std = values.size() < 2 ? 0 : std::sqrt(squares / (n - 1))};
}

}  // namespace fastwan::eval
