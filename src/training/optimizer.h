// AdamW on a network's units (Loshchilov and Hutter, "Decoupled weight decay regularization",
// 2019).
//
//   m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2      p -= lr wd p
//   p -= lr m^ / (sqrt(v^) + eps)       m^ = m / (1 - b1^n), v^ = v / (1 - b2^n), n-th update
//
// Elementwise on each rank's slice; padding takes no part. torch's fused operator does the
// arithmetic, in the master dtype.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/units.h"

namespace fastwan::training {

// How a moment is held between updates; what is held is what a checkpoint holds.
enum class MomentType {
  kMaster,         // as the weights: fp32, or fp64
  kBf16Stochastic  // bf16, rounded stochastically from fp32
};

struct AdamWOptions {
  double beta1 = 0.9;  // 0: no first moment is held
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;  // of every parameter
  MomentType m_type = MomentType::kMaster;
  MomentType v_type = MomentType::kMaster;
  // Key of stochastic rounding; `network` tells the networks of a run apart.
  uint64_t seed = 0;
  int64_t network = 0;
};

// Updates a network's units from their gradients.
class Optimizer {
 public:
  Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;
  virtual ~Optimizer() = default;

  // One update from units.gradient(), which is left as it is.
  virtual void step(double learning_rate) = 0;
  // Updates made so far; with the moments it is the whole state.
  virtual int64_t updates() const = 0;
  virtual void set_updates(int64_t updates) = 0;
  virtual std::vector<FlatPiece> pieces() const = 0;  // the moments, unit by unit
};

class AdamW final : public Optimizer {
 public:
  // InvalidInput bad_value for betas outside [0, 1) and bf16 moments of fp64 weights.
  AdamW(Units& units, const AdamWOptions& options);

  void step(double learning_rate) override;
  int64_t updates() const override { return updates_; }
  void set_updates(int64_t updates) override { updates_ = updates; }
  std::vector<FlatPiece> pieces()
      const override;  // kinds "m" (unless beta1 = 0) and "v", unit by unit

 private:
  struct Moments {
    at::Tensor m, v;  // [numel of this rank]; m undefined where beta1 is 0
  };
  void step_unit(int64_t unit, double learning_rate);

  Units& units_;
  AdamWOptions options_;
  int64_t updates_ = 0;
  std::vector<Moments> moments_;
};

}  // namespace fastwan::training
