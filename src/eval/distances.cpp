#include "eval/distances.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/cdist.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/kthvalue.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sort.h>

#include "base/check.h"
#include "base/rng.h"
#include "base/shape.h"
#include "base/text.h"

namespace fastwan::eval {
namespace {

constexpr int64_t kExact = 2;  // cdist without the matrix product, which cancels near 0

struct Sets {
  at::Tensor a, b;  // [n, d], [m, d] fp64 on the CPU
};

Sets checked(const char* where, const at::Tensor& a, const at::Tensor& b, int64_t fewest) {
  Shapes shapes(where);
  shapes.expect("first set", a.sizes(), "n d");
  shapes.expect("second set", b.sizes(), "m d");
  if (std::min(shapes["n"], shapes["m"]) < fewest) {
    throw InvalidInput(Code::kBadTensor,
                       str(where, " needs ", fewest, " samples or more a set, got ", shapes["n"],
                           " and ", shapes["m"]));
  }
  const Sets sets{a.detach().to(at::kCPU, at::kDouble).contiguous(),
                  b.detach().to(at::kCPU, at::kDouble).contiguous()};
  for (const at::Tensor& set : {sets.a, sets.b}) {
    if (!at::isfinite(set).all().item<bool>()) {
      throw InvalidInput(Code::kBadTensor, str(where, ": features hold NaN or infinity"));
    }
  }
  return sets;
}

at::Tensor square_root(const at::Tensor& symmetric) {
  const auto [values, vectors] = at::linalg_eigh(symmetric);
  return vectors.mul(values.clamp_min(0).sqrt().unsqueeze(0)).mm(vectors.t());
}

// Indices of one resample with repetition.
at::Tensor resample(int64_t n, const Philox& stream) {
  at::Tensor indices = at::empty({n}, at::kLong);
  int64_t* to = indices.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<int64_t>(stream.uniform(i) * static_cast<double>(n));
  }
  return indices;
}

double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

at::Tensor cubic_kernel(const at::Tensor& a, const at::Tensor& b) {
  return (a.mm(b.t()) / static_cast<double>(a.size(1)) + 1).pow(3);
}

at::Tensor radii(const at::Tensor& samples, int64_t k) {
  // The nearest of all is the sample itself.
  return std::get<0>(at::kthvalue(at::cdist(samples, samples, 2, kExact), k + 1, 1));  // [n]
}

// Jackknife variance of a mean-like statistic from its leave-one-out values.
double jackknife_variance(const at::Tensor& left_out) {
  const auto n = static_cast<double>(left_out.numel());
  return (left_out - left_out.mean()).square().sum().item<double>() * (n - 1) / n;
}

}  // namespace

Gaussian fit_gaussian(const at::Tensor& features) {
  const at::Tensor x = features.to(at::kCPU, at::kDouble);  // [n, d]
  const at::Tensor mean = x.mean({0});
  const at::Tensor centred = x - mean;
  return {.mean = mean, .covariance = centred.t().mm(centred) / static_cast<double>(x.size(0) - 1)};
}

double frechet_distance(const Gaussian& a, const Gaussian& b) {
  const at::Tensor root = square_root(a.covariance);
  const at::Tensor product = root.mm(b.covariance).mm(root);
  const at::Tensor symmetric = (product + product.t()) / 2;
  const double cross = at::linalg_eigvalsh(symmetric).clamp_min(0).sqrt().sum().item<double>();
  const double distance = (a.mean - b.mean).square().sum().item<double>() +
                          a.covariance.diagonal().sum().item<double>() +
                          b.covariance.diagonal().sum().item<double>() - 2 * cross;
  // Of fewer samples than features most eigenvalues are rounding, whose roots are not: equal sets
  // would lie a little below 0.
  return std::max(0.0, distance);
}

Estimate frechet_distance(const at::Tensor& a, const at::Tensor& b, const Bootstrap& bootstrap) {
  const Sets sets = checked("frechet", a, b, 2);
  const double value = frechet_distance(fit_gaussian(sets.a), fit_gaussian(sets.b));
  std::vector<double> resamples(static_cast<std::size_t>(bootstrap.resamples));
  // One resample a thread: its matrices are too small for many.
  at::parallel_for(0, bootstrap.resamples, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Philox of_a(bootstrap.seed, Stream::kValidation, i, /*slot=*/0);
      const Philox of_b(bootstrap.seed, Stream::kValidation, i, /*slot=*/1);
      resamples[static_cast<std::size_t>(i)] =
          frechet_distance(fit_gaussian(sets.a.index_select(0, resample(sets.a.size(0), of_a))),
                           fit_gaussian(sets.b.index_select(0, resample(sets.b.size(0), of_b))));
    }
  });
  if (resamples.empty()) {
    return {value, value, value};
  }
  std::sort(resamples.begin(), resamples.end());
  const double shift = value - std::accumulate(resamples.begin(), resamples.end(), 0.0) /
                                   static_cast<double>(resamples.size());
  return {.value = value,
          .low = std::max(0.0, quantile(resamples, 0.025) + shift),
          .high = quantile(resamples, 0.975) + shift};
}

Estimate kernel_distance(const at::Tensor& a, const at::Tensor& b) {
  const Sets sets = checked("kid", a, b, 3);
  const auto n = static_cast<double>(sets.a.size(0));
  const auto m = static_cast<double>(sets.b.size(0));
  const at::Tensor k_aa = cubic_kernel(sets.a, sets.a).fill_diagonal_(0);
  const at::Tensor k_bb = cubic_kernel(sets.b, sets.b).fill_diagonal_(0);
  const at::Tensor k_ab = cubic_kernel(sets.a, sets.b);
  const at::Tensor of_a = k_aa.sum(1), of_b = k_bb.sum(1);        // [n], [m]
  const at::Tensor cross_a = k_ab.sum(1), cross_b = k_ab.sum(0);  // [n], [m]
  const double aa = of_a.sum().item<double>(), bb = of_b.sum().item<double>();
  const double ab = cross_a.sum().item<double>();
  const double value = aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m);
  // Each sample left out in turn.
  const at::Tensor without_a = (aa - 2 * of_a) / ((n - 1) * (n - 2)) + bb / (m * (m - 1)) -
                               2 * (ab - cross_a) / ((n - 1) * m);
  const at::Tensor without_b = aa / (n * (n - 1)) + (bb - 2 * of_b) / ((m - 1) * (m - 2)) -
                               2 * (ab - cross_b) / (n * (m - 1));
  const double error = std::sqrt(jackknife_variance(without_a) + jackknife_variance(without_b));
  return {.value = value, .low = value - kZ95 * error, .high = value + kZ95 * error};
}

Manifold compare_manifolds(const at::Tensor& real_any, const at::Tensor& model_any, int64_t k) {
  const Sets sets = checked("precision and recall", real_any, model_any, k + 1);
  const at::Tensor distance = at::cdist(sets.a, sets.b, 2, kExact);        // [n, m]
  const at::Tensor in_real = distance.le(radii(sets.a, k).unsqueeze(1));   // [n, m]
  const at::Tensor in_model = distance.le(radii(sets.b, k).unsqueeze(0));  // [n, m]
  const auto share = [](const at::Tensor& hits) {
    return hits.to(at::kDouble).mean().item<double>();
  };
  return {.precision = share(in_real.any(0)),
          .recall = share(in_model.any(1)),
          .coverage = share(in_real.any(1))};
}

double squared_wasserstein(std::span<const double> a, std::span<const double> b) {
  // Both quantile functions are steps; between two steps their difference is constant.
  const auto n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
  double sum = 0, from = 0;
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    const double end_a = static_cast<double>(i + 1) / n, end_b = static_cast<double>(j + 1) / m;
    const double to = std::min(end_a, end_b);
    sum += (to - from) * (a[i] - b[j]) * (a[i] - b[j]);
    from = to;
    i += end_a <= end_b ? 1 : 0;
    j += end_b <= end_a ? 1 : 0;
  }
  return sum;
}

double sliced_wasserstein(const at::Tensor& a, const at::Tensor& b, const Slices& slices) {
  const Sets sets = checked("sliced Wasserstein", a, b, 1);
  const int64_t d = sets.a.size(1);
  at::Tensor directions = at::empty({slices.projections, d}, at::kFloat);
  for (int64_t i = 0; i < slices.projections; ++i) {
    Philox(slices.seed, Stream::kValidation, i, /*slot=*/2)
        .fill_normal(0,
                     {directions.mutable_data_ptr<float>() + i * d, static_cast<std::size_t>(d)});
  }
  at::Tensor units = directions.to(at::kDouble);
  units = units / units.norm(2, {1}, /*keepdim=*/true);
  const auto project = [&units](const at::Tensor& set) {
    return std::get<0>(at::sort(units.mm(set.t()), /*dim=*/1)).contiguous();  // [projections, n]
  };
  const at::Tensor along_a = project(sets.a), along_b = project(sets.b);
  double sum = 0;
  for (int64_t i = 0; i < slices.projections; ++i) {
    const auto row = [i](const at::Tensor& sorted) {
      return std::span<const double>(sorted.const_data_ptr<double>() + i * sorted.size(1),
                                     static_cast<std::size_t>(sorted.size(1)));
    };
    sum += squared_wasserstein(row(along_a), row(along_b));
  }
  return std::sqrt(sum / static_cast<double>(slices.projections));
}

}  // namespace fastwan::eval
