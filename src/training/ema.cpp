#include "training/ema.h"

#include <ATen/ops/lerp.h>
#include <c10/core/GradMode.h>

#include "base/check.h"

namespace fastwan::training {

Ema::Ema(Units& units, const EmaOptions& options) : units_(units), options_(options) {
  if (options.start_step <= 0) {
    start();
  }
}

void Ema::start() {
  if (is_started_) {
    return;
  }
  for (int64_t i = 0; i < units_.count(); ++i) {
    average_.push_back(units_.master(i).clone());
  }
  is_started_ = true;
}

void Ema::update(int64_t step) {
  const c10::NoGradGuard no_grad;
  if (step < options_.start_step) {
    return;
  }
  if (!is_started_) {
    start();
    return;
  }
  for (int64_t i = 0; i < units_.count(); ++i) {
    average_[static_cast<std::size_t>(i)].lerp_(units_.master(i), 1.0 - options_.decay);
  }
}

std::vector<FlatPiece> Ema::pieces() const {
  std::vector<FlatPiece> pieces;
  for (std::size_t i = 0; i < average_.size(); ++i) {
    pieces.push_back({.unit = units_.layout()[i].name,
                      .kind = "ema",
                      .begin = units_.begin(static_cast<int64_t>(i)),
                      .values = average_[i]});
  }
  return pieces;
}

void Ema::swap() {
  const c10::NoGradGuard no_grad;
  invariant(is_started_, "an average that has begun");
  for (int64_t i = 0; i < units_.count(); ++i) {
    const at::Tensor master = units_.master(i);
    at::Tensor& average = average_[static_cast<std::size_t>(i)];
    const at::Tensor weights = master.clone();
    master.copy_(average);
    average.copy_(weights);
  }
}

}  // namespace fastwan::training
