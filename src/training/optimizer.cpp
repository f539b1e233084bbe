#include "training/optimizer.h"

#include <algorithm>

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "base/text.h"
#include "training/stochastic_round.h"

namespace fastwan::training {
namespace {

// Moments that are not held in the master dtype are widened this many elements at once: 16 MB each.
constexpr int64_t kElementsAtOnce = int64_t{1} << 22;

void check_beta(const char* name, double beta) {
  if (!(beta >= 0.0 && beta < 1.0)) {
    throw InvalidInput(Code::kBadValue, str("AdamW: ", name, " must lie in [0, 1), got ", beta));
  }
}

at::ScalarType held_type(MomentType type, at::ScalarType master) {
  if (type == MomentType::kMaster) {
    return master;
  }
  if (master != at::kFloat) {
    throw InvalidInput(Code::kBadValue,
                       "AdamW: moments in bf16_sr need weights in fp32. Use fp32 moments");
  }
  return at::kBFloat16;
}

}  // namespace

AdamW::AdamW(Units& units, const AdamWOptions& options) : units_(units), options_(options) {
  check_beta("beta1", options.beta1);
  check_beta("beta2", options.beta2);
  for (int64_t i = 0; i < units.count(); ++i) {
    const at::Tensor master = units.master(i);
    const auto zeros = [&master](MomentType type) {
      return at::zeros(master.sizes(),
                       master.options().dtype(held_type(type, master.scalar_type())));
    };
    moments_.push_back({.m = options.beta1 > 0 ? zeros(options.m_type) : at::Tensor(),
                        .v = zeros(options.v_type)});
  }
}

void AdamW::step(double learning_rate) {
  const c10::NoGradGuard no_grad;
  ++updates_;
  for (int64_t i = 0; i < units_.count(); ++i) {
    step_unit(i, learning_rate);
  }
}

void AdamW::step_unit(int64_t unit, double learning_rate) {
  const Moments& held = moments_[static_cast<std::size_t>(unit)];
  const at::Tensor master = units_.master(unit), gradient = units_.gradient(unit);
  const at::ScalarType type = master.scalar_type();
  const int64_t numel = master.size(0), first = units_.begin(unit);
  const at::Tensor update_count =
      at::full({}, static_cast<double>(updates_), master.options().dtype(at::kFloat));
  const bool is_held_wide =
      held.m.defined() && held.m.scalar_type() == type && held.v.scalar_type() == type;
  const int64_t step = is_held_wide ? std::max<int64_t>(1, numel) : kElementsAtOnce;
  for (int64_t from = 0; from < numel; from += step) {
    const int64_t n = std::min(step, numel - from);
    const auto part = [from, n](const at::Tensor& x) { return x.narrow(0, from, n); };
    // With beta1 = 0 the operator makes m = g of any finite m.
    const at::Tensor m =
        held.m.defined() ? part(held.m).to(type) : at::zeros({n}, master.options());
    const at::Tensor v = part(held.v).to(type);
    at::_fused_adamw_({part(master)}, {part(gradient)}, {m}, {v}, {}, {update_count}, learning_rate,
                      options_.beta1, options_.beta2, options_.weight_decay, options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
    const auto keep = [&](const at::Tensor& moment, const at::Tensor& now, int64_t which) {
      if (moment.defined() && moment.scalar_type() != type) {
        part(moment).copy_(stochastic_round(now,
                                            {.seed = options_.seed,
                                             .step = updates_,
                                             .slot = unit,
                                             .draw = 2 * options_.network + which},
                                            first + from));
      }
    };
    keep(held.m, m, 0);
    keep(held.v, v, 1);
  }
}

std::vector<FlatPiece> AdamW::pieces() const {
  std::vector<FlatPiece> pieces;
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    const auto add = [&](const char* kind, const at::Tensor& moment) {
      if (moment.defined()) {
        pieces.push_back({.unit = units_.layout()[i].name,
                          .kind = kind,
                          .begin = units_.begin(static_cast<int64_t>(i)),
                          .values = moment});
      }
    };
    add("m", moments_[i].m);
    add("v", moments_[i].v);
  }
  return pieces;
}

}  // namespace fastwan::training
