#include "training/muon.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

constexpr double kMomentum = 0.95;
constexpr int kIterations = 5;
constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;  // Jordan et al.
constexpr double kRmsOfAdamW = 0.2;                       // Liu et al.
constexpr const char* kBlocks = "blocks.";

bool is_matrix(const UnitTensor& tensor) {
  return tensor.name.starts_with(kBlocks) && tensor.shape.size() == 2;
}

}  // namespace

at::Tensor Muon::part(const at::Tensor& flat, const Range& range) {
  return flat.narrow(0, range.begin, range.numel);
}

at::Tensor orthogonalised(const at::Tensor& matrices) {
  if (matrices.size(1) > matrices.size(2)) {
    return orthogonalised(matrices.transpose(1, 2)).transpose(1, 2);
  }
  constexpr double kSmallest = 1e-30;
  const at::Tensor length =
      at::linalg_vector_norm(matrices, 2, {1, 2}, /*keepdim=*/true).clamp_min(kSmallest);
  at::Tensor x = matrices / length;  // [n, r, c], singular values at most 1
  if (x.is_cuda() && x.scalar_type() == at::kFloat) {
    x = x.to(at::kBFloat16);  // the polynomial forgives its rounding
  }
  for (int i = 0; i < kIterations; ++i) {
    const at::Tensor gram = at::bmm(x, x.transpose(1, 2));           // [n, r, r]
    const at::Tensor inner = at::baddbmm(gram, gram, gram, kB, kC);  // b A + c A^2
    x = at::baddbmm(x, inner, x, kA, 1.0);                           // a X + (b A + c A^2) X
  }
  return x.to(matrices.scalar_type());
}

Muon::Muon(Units& units, const AdamWOptions& options) : units_(units), options_(options) {
  if (units.mesh().shard->size() != 1) {
    throw InvalidInput(Code::kConflict,
                       str("Muon needs whole matrices on every rank, got units cut over ",
                           units.mesh().shard->size(), " ranks. Take AdamW, or shard 1"));
  }
  if (options.m_type != MomentType::kMaster || options.v_type != MomentType::kMaster) {
    throw InvalidInput(Code::kConflict, "Muon keeps its moments in the weights' type: take fp32");
  }
  std::map<std::pair<int64_t, int64_t>, std::vector<Range>> by_shape;
  for (int64_t i = 0; i < units.count(); ++i) {
    const at::Tensor master = units.master(i);
    m_.push_back(at::zeros(master.sizes(), master.options()));
    v_.push_back(at::zeros(master.sizes(), master.options()));
    const UnitLayout& layout = units.layout()[static_cast<std::size_t>(i)];
    int64_t end = 0;  // of the last matrix
    for (const UnitTensor& tensor : layout.tensors) {
      if (!is_matrix(tensor)) {
        continue;
      }
      if (tensor.offset > end) {
        rest_.push_back({.unit = i, .begin = end, .numel = tensor.offset - end});
      }
      end = tensor.offset + tensor.numel;
      by_shape[{tensor.shape[0], tensor.shape[1]}].push_back(
          {.unit = i, .begin = tensor.offset, .numel = tensor.numel});
    }
    if (end < layout.numel) {
      rest_.push_back({.unit = i, .begin = end, .numel = layout.numel - end});
    }
  }
  for (auto& [shape, ranges] : by_shape) {
    matrices_.push_back(
        {.rows = shape.first, .columns = shape.second, .ranges = std::move(ranges)});
  }
}

void Muon::step(double learning_rate) {
  const c10::NoGradGuard no_grad;
  ++updates_;
  for (const Matrices& alike : matrices_) {
    step_matrices(alike, learning_rate);
  }
  step_rest(learning_rate);
}

void Muon::step_matrices(const Matrices& matrices, double learning_rate) {
  const int64_t r = matrices.rows, c = matrices.columns;
  std::vector<at::Tensor> weights, gradients, moments;  // [r, c], views
  for (const Range& range : matrices.ranges) {
    const auto view = [&](const at::Tensor& flat) { return part(flat, range).view({r, c}); };
    weights.push_back(view(units_.master(range.unit)));
    gradients.push_back(view(units_.gradient(range.unit)));
    moments.push_back(view(m_[static_cast<std::size_t>(range.unit)]));
  }
  at::_foreach_mul_(moments, kMomentum);
  at::_foreach_add_(moments, gradients);
  const at::Tensor ahead = at::stack(at::_foreach_add(gradients, moments, kMomentum));  // [n, r, c]
  const double scale = kRmsOfAdamW * std::sqrt(static_cast<double>(std::max(r, c)));
  at::_foreach_mul_(weights, 1.0 - learning_rate * options_.weight_decay);
  at::_foreach_add_(weights, orthogonalised(ahead).unbind(0), -learning_rate * scale);
}

void Muon::step_rest(double learning_rate) {
  if (rest_.empty()) {
    return;
  }
  std::vector<at::Tensor> weights, gradients, m, v, counts;
  for (const Range& range : rest_) {
    const auto unit = static_cast<std::size_t>(range.unit);
    weights.push_back(part(units_.master(range.unit), range));
    gradients.push_back(part(units_.gradient(range.unit), range));
    m.push_back(part(m_[unit], range));
    v.push_back(part(v_[unit], range));
  }
  const at::Tensor count =
      at::full({}, static_cast<double>(updates_), weights.front().options().dtype(at::kFloat));
  counts.assign(weights.size(), count);
  at::_fused_adamw_(weights, gradients, m, v, {}, counts, learning_rate, options_.beta1,
                    options_.beta2, options_.weight_decay, options_.eps, /*amsgrad=*/false,
                    /*maximize=*/false);
}

std::vector<FlatPiece> Muon::pieces() const {
  std::vector<FlatPiece> pieces;
  for (std::size_t i = 0; i < m_.size(); ++i) {
    const std::string& name = units_.layout()[i].name;
    const int64_t begin = units_.begin(static_cast<int64_t>(i));
    pieces.push_back({.unit = name, .kind = "m", .begin = begin, .values = m_[i]});
    pieces.push_back({.unit = name, .kind = "v", .begin = begin, .values = v_[i]});
  }
  return pieces;
}

}  // namespace fastwan::training
