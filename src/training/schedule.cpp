#include "training/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

constexpr std::array<std::pair<const char*, LrKind>, 6> kNames{{
    {"constant", LrKind::kConstant},
    {"constant_with_warmup", LrKind::kConstantWithWarmup},
    {"linear", LrKind::kLinear},
    {"cosine", LrKind::kCosine},
    {"polynomial", LrKind::kPolynomial},
    {"cosine_with_min_lr", LrKind::kCosineWithMinLr},
}};

double ratio(int64_t a, int64_t b) {
  return static_cast<double>(a) / static_cast<double>(std::max<int64_t>(1, b));
}

double cosine(double cycles, double progress) {
  return 0.5 * (1.0 + std::cos(2.0 * std::numbers::pi * cycles * progress));
}

}  // namespace

LrKind lr_kind(const std::string& name) {
  std::string known;
  for (const auto& [known_name, kind] : kNames) {
    if (name == known_name) {
      return kind;
    }
    known += str(known.empty() ? "" : ", ", known_name);
  }
  throw InvalidInput(Code::kBadValue, str("lr_scheduler must be one of ", known, ", got ", name));
}

double lr_factor(const LrSchedule& schedule, int64_t step) {
  const int64_t W = schedule.warmup_steps, T = schedule.total_steps;
  if (schedule.kind == LrKind::kConstant) {
    return 1.0;
  }
  if (step < W) {
    return ratio(step, W);
  }
  const double progress = ratio(step - W, T - W);
  switch (schedule.kind) {
    case LrKind::kConstant:
    case LrKind::kConstantWithWarmup:
      return 1.0;
    case LrKind::kLinear:
      return std::max(0.0, ratio(T - step, T - W));
    case LrKind::kCosine:
      return std::max(0.0, cosine(schedule.num_cycles, progress));
    case LrKind::kCosineWithMinLr:
      return std::max(schedule.min_lr_ratio, cosine(schedule.num_cycles, progress));
    case LrKind::kPolynomial:
      return step > T ? schedule.end_ratio
                      : (1.0 - schedule.end_ratio) * std::pow(1.0 - progress, schedule.power) +
                            schedule.end_ratio;
  }
  return 1.0;
}

}  // namespace fastwan::training
