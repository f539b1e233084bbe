// Distances between two sets of feature vectors.
//
// Dims   n, m samples of the two sets, d features
// Types  any floating type; computed in fp64 on the CPU
// Errors InvalidInput bad_tensor: not [n, d] and [m, d], too few samples, numbers not finite
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "eval/statistics.h"

namespace fastwan::eval {

// Mean and covariance (divided by n - 1) of features [n, d].
struct Gaussian {
  at::Tensor mean;        // [d]
  at::Tensor covariance;  // [d, d]
};
Gaussian fit_gaussian(const at::Tensor& features);

// |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), the square root from the eigenvalues of
// the symmetric product (Heusel et al. 2017, in the form without a general matrix square root).
double frechet_distance(const Gaussian& a, const Gaussian& b);

struct Bootstrap {
  int64_t resamples = 1000;  // the interval's ends are the 26th and the 975th
  uint64_t seed = 0;
};
// The interval is the spread of the distance over resamples of both sets, moved so that their mean
// falls on the value: drawing with repetition raises the distance itself.
Estimate frechet_distance(const at::Tensor& a, const at::Tensor& b, const Bootstrap& bootstrap);

// KID (Binkowski et al. 2018): the unbiased squared maximum mean discrepancy with the kernel
// (x.y / d + 1)^3; may be negative. Interval: normal, with the jackknife's standard error.
Estimate kernel_distance(const at::Tensor& a, const at::Tensor& b);

// Nearest-neighbour manifolds (Kynkaanniemi et al. 2019; coverage: Naeem et al. 2020).
struct Manifold {
  double precision = 0;  // share of model samples inside a ball of a real one
  double recall = 0;     // share of real samples inside a ball of a model one
  double coverage = 0;   // share of real samples whose ball holds a model sample
};
// A sample's ball reaches to its k-th nearest neighbour in its own set; n, m > k.
Manifold compare_manifolds(const at::Tensor& real, const at::Tensor& model, int64_t k = 5);

struct Slices {
  int64_t projections = 128;
  uint64_t seed = 0;
};
// sqrt of the mean over random directions of the squared 2-Wasserstein distance in one dimension;
// n and m may differ.
double sliced_wasserstein(const at::Tensor& a, const at::Tensor& b, const Slices& slices);
// The same in one dimension: the squared 2-Wasserstein distance of sorted samples.
double squared_wasserstein(std::span<const double> sorted_a, std::span<const double> sorted_b);

}  // namespace fastwan::eval
