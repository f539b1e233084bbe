#include "training/flow_matching.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/square.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

at::ScalarType sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor mean_of_samples(const at::Tensor& x) {
  return x.flatten(1).mean(1);  // [B]
}

}  // namespace

double shifted(double base, double shift) {
  return shift * base / (1.0 + (shift - 1.0) * base);
}

double logit_normal(double normal, const TimestepLaw& law) {
  return 1.0 / (1.0 + std::exp(-(law.logit_mean + law.logit_std * normal)));
}

double mode_density(double uniform, double scale) {
  const double cosine = std::cos(std::numbers::pi * uniform / 2.0);
  return 1.0 - uniform - scale * (cosine * cosine - 1.0 + uniform);
}

double sigma_of(double u, const TimestepLaw& law) {
  double base = 1.0 - u;
  if (law.grid > 0) {
    const auto n = static_cast<double>(law.grid);
    base = (n - std::clamp(std::floor(u * n), 0.0, n - 1.0)) / n;
  }
  return shifted(base, law.shift);
}

bool trains_low_noise(uint64_t seed, int64_t step, double boundary) {
  constexpr int64_t kExpertDraw = 1;  // draw 0 of this stream is the samples'
  return Philox(seed, Stream::kFlowTimestep, step, /*slot=*/0, kExpertDraw).uniform(0) < boundary;
}

double restricted_to_low_noise(double u, double boundary) {
  return (1.0 - boundary) + u * boundary;
}

std::vector<double> draw_u(const TimestepLaw& law,
                           const DrawKey& key,
                           std::span<const int64_t> slots) {
  std::vector<double> values;
  for (const int64_t slot : slots) {
    const Philox philox(key.seed, key.stream, key.step, slot, key.draw);
    const double w = philox.uniform(0);
    switch (law.density) {
      case Density::kUniform:
        values.push_back(w);
        break;
      case Density::kLogitNormal: {
        const double normal =
            std::sqrt(-2.0 * std::log(w)) * std::cos(2.0 * std::numbers::pi * philox.uniform(1));
        values.push_back(logit_normal(normal, law));
        break;
      }
      case Density::kMode:
        values.push_back(mode_density(w, law.mode_scale));
        break;
    }
  }
  return values;
}

at::Tensor as_sigma(std::span<const double> values) {
  return at::tensor(at::ArrayRef<double>(values.data(), values.size()), at::kDouble);
}

at::Tensor per_sample(const at::Tensor& values, const at::Tensor& like) {
  std::vector<int64_t> shape(static_cast<std::size_t>(like.dim()), 1);
  shape[0] = -1;
  return values.to(like.options()).view(shape);
}

at::Tensor noised(const at::Tensor& x0, const at::Tensor& noise, const at::Tensor& sigma) {
  const at::Tensor share = per_sample(sigma, x0.to(sum_type(x0)));
  return x0 * (1.0 - share) + noise * share;
}

at::Tensor predicted_x0(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& sigma) {
  const at::Tensor wide = x.to(sum_type(x));
  return wide - per_sample(sigma, wide) * velocity.to(wide.scalar_type());
}

at::Tensor timestep_of(const at::Tensor& sigma, const at::Tensor& x) {
  return (1000.0 * sigma).to(x.device(), sum_type(x));
}

at::Tensor flow_loss(const at::Tensor& velocity, const at::Tensor& x0, const at::Tensor& noise) {
  const at::Tensor target = noise - x0;
  return mean_of_samples(at::square(velocity.to(sum_type(target)) - target.to(sum_type(target))));
}

at::Tensor preconditioned_loss(const at::Tensor& velocity,
                               const at::Tensor& x,
                               const at::Tensor& x0,
                               const at::Tensor& sigma) {
  return mean_of_samples(at::square(predicted_x0(x, velocity, sigma) - x0));
}

at::Tensor unconditional_rows(const at::Tensor& unconditional, const at::Tensor& text) {
  if (unconditional.dim() != 2 || unconditional.size(1) != text.size(2)) {
    throw InvalidInput(Code::kBadTensor, str("unconditional text must be [L ", text.size(2),
                                             "], got ", format_shape(unconditional.sizes())));
  }
  const int64_t rows = std::min(unconditional.size(0), text.size(1));
  return at::constant_pad_nd(unconditional.narrow(0, 0, rows).to(text.options()),
                             {0, 0, 0, text.size(1) - rows})
      .unsqueeze(0)
      .expand_as(text);  // [B, L, D]
}

at::Tensor with_caption_dropout(const at::Tensor& text,
                                const at::Tensor& unconditional,
                                double rate,
                                const DrawKey& key,
                                std::span<const int64_t> slots) {
  if (rate <= 0) {
    return text;
  }
  std::vector<int64_t> is_dropped;
  for (const int64_t slot : slots) {
    is_dropped.push_back(
        Philox(key.seed, Stream::kCfgDrop, key.step, slot, key.draw).uniform(0) < rate ? 1 : 0);
  }
  const at::Tensor dropped = at::tensor(is_dropped, at::kLong).to(text.device()).ne(0);  // [B]
  return at::where(dropped.view({-1, 1, 1}), unconditional_rows(unconditional, text), text);
}

}  // namespace fastwan::training
