// UniPC (Zhao et al., "UniPC: a unified predictor-corrector framework for fast sampling of
// diffusion models", NeurIPS 2023), data prediction, B(h) = e^h - 1 ("bh2"), for flow sigmas.
//
// In lambda(sigma) = log((1 - sigma) / sigma) the path between two levels has an exact linear part
// and an integral over x0, which predictor and corrector approximate by x0 and its first difference
// D1. Scalars are fp32, as the references keep them: the differences below lose digits, and to lose
// the same ones matters more than to lose none.
#include <algorithm>
#include <cmath>
#include <deque>

#include <ATen/TensorOperators.h>

#include "base/check.h"
#include "diffusion/samplers.h"

namespace fastwan::diffusion {
namespace {

struct Estimate {
  at::Tensor x0;
  float sigma;
};

// The Wan authors clamp, diffusers does not. At sigma = 0 both leave expm1(-h) = -1, thus x = x0;
// at a sigma that fp32 cannot tell from 1 the clamp spares an infinity.
float log_snr(float sigma) {
  constexpr float kTiny = 1e-12F;
  return std::log(std::max(1.0F - sigma, kTiny)) - std::log(std::max(sigma, kTiny));
}

// One move from level `from` to level `to`: x' = keep x - pull (x0 + correction).
struct Move {
  float h;
  float phi;  // e^-h - 1
  float keep;
  float pull;

  Move(float from, float to)
      : h(log_snr(to) - log_snr(from)),
        phi(std::expm1(-h)),
        keep(to / from),
        pull((1.0F - to) * phi) {}

  float distance(const Estimate& newer, const Estimate& older) const {  // r_k of the paper
    return (log_snr(older.sigma) - log_snr(newer.sigma)) / h;
  }
};

at::Tensor difference(const Move& move, const Estimate& newer, const Estimate& older) {
  return (older.x0 - newer.x0) / move.distance(newer, older);
}

// UniP: from the newest estimate's level to sigma `to`; `past` has the newest first.
at::Tensor predict(const at::Tensor& x, const std::deque<Estimate>& past, float to, int64_t order) {
  const Move move(past[0].sigma, to);
  const at::Tensor linear = x * move.keep - past[0].x0 * move.pull;
  if (order == 1) {
    return linear;
  }
  return linear - (difference(move, past[0], past[1]) * 0.5F) * move.pull;
}

// UniC: redoes the last move from `last`, now knowing the estimate at its end.
at::Tensor correct(const at::Tensor& last,
                   const Estimate& reached,
                   const std::deque<Estimate>& past,
                   int64_t order) {
  const Move move(past[0].sigma, reached.sigma);
  const at::Tensor linear = last * move.keep - past[0].x0 * move.pull;
  const at::Tensor change = reached.x0 - past[0].x0;
  if (order == 1) {
    return linear - change * 0.5F * move.pull;
  }
  // rho solves [1 1; r 1] rho = b: the first two moments of the integral.
  const float r = move.distance(past[0], past[1]);
  const float moment_1 = move.phi / -move.h - 1.0F;
  const float moment_2 = moment_1 / -move.h - 0.5F;
  const float b1 = moment_1 / move.phi;
  const float b2 = 2.0F * moment_2 / move.phi;
  const float rho_0 = (b1 - b2) / (1.0F - r);
  const float rho_1 = b1 - rho_0;
  return linear - (difference(move, past[0], past[1]) * rho_0 + change * rho_1) * move.pull;
}

// Two at most, fewer while there is no history and at the end.
int64_t order_of(int64_t step, int64_t total) {
  return std::min<int64_t>({2, step + 1, total - step});
}

}  // namespace

at::Tensor sample_unipc(const at::Tensor& noise,
                        const std::vector<NoiseLevel>& levels,
                        const Denoiser& velocity,
                        const OnStep& on_step,
                        const Impose& impose) {
  invariant(!levels.empty(), "a sampler has at least one level");
  const auto imposed = [&](const at::Tensor& x) { return impose ? impose(x) : x; };
  const auto total = static_cast<int64_t>(levels.size());
  const auto sigma_of = [&](int64_t i) {
    return i < total ? static_cast<float>(levels[static_cast<std::size_t>(i)].sigma) : 0.0F;
  };
  std::deque<Estimate> past;  // newest first
  at::Tensor x = noise, last;
  for (int64_t i = 0; i < total; ++i) {
    const at::Tensor v = velocity(imposed(x), levels[static_cast<std::size_t>(i)], i);
    // sigma v is rounded to the velocity's type before it is subtracted, as in the references.
    const Estimate estimate{.x0 = x - v * sigma_of(i), .sigma = sigma_of(i)};
    if (i > 0) {
      x = correct(last, estimate, past, order_of(i - 1, total));
    }
    past.push_front(estimate);
    past.resize(std::min<std::size_t>(past.size(), 2));
    last = x;
    x = predict(last, past, sigma_of(i + 1), order_of(i, total));
    if (on_step) {
      on_step(i + 1, total, imposed(estimate.x0));
    }
  }
  return imposed(x);
}

}  // namespace fastwan::diffusion
