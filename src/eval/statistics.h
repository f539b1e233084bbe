// Numbers with their uncertainty, and tests of uniformity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fastwan::eval {

inline constexpr double kZ95 = 1.959963984540054;  // 97.5 % point of the normal distribution

// A value with its 95 % interval.
struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

// The share successes / n with Wilson's score interval (E. B. Wilson 1927), which stays inside
// [0, 1] and is honest near its ends. n = 0: value 0, interval [0, 1].
Estimate wilson(int64_t successes, int64_t n, double z = kZ95);

struct ChiSquared {
  double statistic = 0;
  int64_t freedom = 0;
  double p = 1;  // probability of a statistic at least as large under the law
};
// Pearson's test of equal probabilities. `counts` has two bins or more; no observation: p = 1.
ChiSquared test_uniform(std::span<const int64_t> counts);
// P(X >= statistic) for X chi-squared.
double chi_squared_tail(double statistic, int64_t freedom);

// Counts of values in [0, 1), equally wide bins; values outside count at the nearest end.
std::vector<int64_t> histogram(std::span<const double> values, int64_t bins);

struct MeanAndStd {
  double mean = 0;
  double std = 0;  // divided by n - 1; 0 for fewer than two values
};
MeanAndStd mean_and_std(std::span<const double> values);

}  // namespace fastwan::eval
