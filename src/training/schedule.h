// What changes with the step alone: learning rates and the sparsity of VSA. Pure functions, so a
// resume needs nothing but the step. Torch-free: the planner counts with the ramp too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

namespace fastwan::training {

enum class LrKind {
  kConstant,
  kConstantWithWarmup,
  kLinear,
  kCosine,
  kPolynomial,
  kCosineWithMinLr,
};

// By the names that recipes use (`constant`, `cosine_with_min_lr`, ...). InvalidInput bad_value.
LrKind lr_kind(const std::string& name);

// W warm-up steps of T; p = (step - W) / max(1, T - W). With step < W the factor is step / max(1,
// W), except for kConstant, which has no warm-up; then
//
//   constant, constant_with_warmup   1
//   linear                           max(0, (T - step) / max(1, T - W))
//   cosine                           max(0, (1 + cos(2 pi c p)) / 2)
//   cosine_with_min_lr               max(r, (1 + cos(2 pi c p)) / 2): stays at its floor
//   polynomial                       (1 - e) (1 - p)^k + e; e beyond T
//
// Source  diffusers optimization.py; the floor is FastVideo's
struct LrSchedule {
  LrKind kind = LrKind::kConstant;
  int64_t warmup_steps = 0;   // W
  int64_t total_steps = 1;    // T
  double min_lr_ratio = 0.0;  // r
  double num_cycles = 0.5;    // c
  double power = 1.0;         // k
  double end_ratio = 0.0;     // e, the last learning rate over the first
};

// The factor on the learning rate of an iteration before which `step` iterations were done: 0 for
// the first.
double lr_factor(const LrSchedule& schedule, int64_t step);

// s = n rate with n = step / interval rounded down, and exactly `sparsity` once n rate reaches it.
struct SparsityRamp {
  double sparsity = 0.9;
  double rate = 0.03;     // 0: constant
  int64_t interval = 50;  // steps
};
// The first n of full sparsity; 0.9 / 0.03 is 30.000000000000004: such a quotient counts as 30.
inline double ramp_levels(const SparsityRamp& ramp) {
  constexpr double kQuotientSlack = 1e-9;
  return ramp.rate > 0.0 ? std::ceil(ramp.sparsity / ramp.rate - kQuotientSlack) : 0.0;
}
inline double ramped_sparsity(const SparsityRamp& ramp, int64_t step) {
  const auto n = static_cast<double>(step / std::max<int64_t>(1, ramp.interval));
  return n >= ramp_levels(ramp) ? ramp.sparsity : n * ramp.rate;
}

}  // namespace fastwan::training
