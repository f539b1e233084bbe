// An average of a network's weights over its updates: s <- d s + (1 - d) p, in the master dtype, on
// each rank's slice.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/units.h"

namespace fastwan::training {

struct EmaOptions {
  double decay = 0.999;
  int64_t start_step = 0;  // iteration; 0 or less: from the initial weights
};

class Ema {
 public:
  Ema(Units& units, const EmaOptions& options);

  // After an optimizer update of this network in iteration `step` (from 1): before start_step
  // nothing; the first time from then on a copy of the weights; later one tick of the average.
  // Iterations without an update of this network do not call it.
  void update(int64_t step);

  bool is_started() const { return is_started_; }
  // For a resume: the average counts as begun, its values are then written through pieces().
  void start();
  // Kind "ema"; empty until it has started.
  std::vector<FlatPiece> pieces() const;

  // The network's weights and the average change places, bit by bit; twice is nothing.
  void swap();

 private:
  Units& units_;
  EmaOptions options_;
  bool is_started_ = false;
  std::vector<at::Tensor> average_;  // a unit's slice without padding
};

// The network computes with the average while this lives; without one begun, with its weights.
class WithEma {
 public:
  explicit WithEma(Ema& ema) : ema_(ema) { swap(); }
  WithEma(const WithEma&) = delete;
  WithEma& operator=(const WithEma&) = delete;
  ~WithEma() { swap(); }

 private:
  void swap() {
    if (ema_.is_started()) {
      ema_.swap();
    }
  }
  Ema& ema_;
};

}  // namespace fastwan::training
