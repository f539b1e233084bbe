// For tests. The bar of the eight-Gaussians experiment, written down before its first run; hyper-
// parameters may be tuned, this number may not.
//
// Data: eight modes at equal weights on a circle of radius 2, standard deviation 0.15. Measure:
// unbiased MMD^2 with k(x, y) = exp(-|x - y|^2 / (2 * 0.5^2)), 4,096 samples a side. With these,
// k of one mode's samples is 0.85 on average and of two neighbours' 0.01, so that
//   one mode lost       0.85 (1/8^2 + 7 (1/7 - 1/8)^2) = 0.015
//   weights off by 20 % 0.85 * 8 * 0.025^2 = 0.004
// The bar lies between: every mode must be there, weights may be off by a quarter.
#pragma once

namespace fastwan::training::dmd {

inline constexpr double kEightGaussiansBar = 0.01;  // MMD^2 of the three-step student

}  // namespace fastwan::training::dmd
