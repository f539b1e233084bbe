// Muon on the matrices of a network's blocks, AdamW on all else (Jordan et al., "Muon: an optimizer
// for hidden layers in neural networks", 2024; the scale is that of Liu et al., "Muon is scalable
// for LLM training", 2025, so that AdamW's rates and decay fit).
//
//   m = b m + g      u = g + b m      p -= lr wd p + lr 0.2 sqrt(max(rows, columns)) orthogonal(u)
//
// orthogonal(u) is near U V^T of u = U S V^T: five steps of an odd polynomial.
//
// A matrix is a tensor of two dimensions in a block ("blocks.<i>."). A rank must hold
// matrices whole: not for units that are cut over ranks.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/optimizer.h"
#include "training/units.h"

namespace fastwan::training {

// Singular values of [n, r, c] become about 1 (0.7 to 1.2), directions stay. r <= c is cheaper.
at::Tensor orthogonalised(const at::Tensor& matrices);

class Muon final : public Optimizer {
 public:
  // options.beta1 and beta2 are of AdamW. InvalidInput conflict for units cut over ranks and for
  // moments in bf16.
  Muon(Units& units, const AdamWOptions& options);

  void step(double learning_rate) override;
  int64_t updates() const override { return updates_; }
  void set_updates(int64_t updates) override { updates_ = updates; }
  // Kinds "m" and "v", unit by unit; v of a matrix stays zero.
  std::vector<FlatPiece> pieces() const override;

 private:
  struct Range {  // of a unit's vector
    int64_t unit, begin, numel;
  };
  struct Matrices {  // of one shape
    int64_t rows, columns;
    std::vector<Range> ranges;
  };
  static at::Tensor part(const at::Tensor& flat, const Range& range);
  void step_matrices(const Matrices& matrices, double learning_rate);
  void step_rest(double learning_rate);

  Units& units_;
  AdamWOptions options_;
  int64_t updates_ = 0;
  std::vector<at::Tensor> m_, v_;  // flat, a unit each
  std::vector<Matrices> matrices_;
  std::vector<Range> rest_;  // what lies between matrices
};

}  // namespace fastwan::training
