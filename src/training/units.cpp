#include "training/units.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "base/check.h"

namespace fastwan::training {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

UnitLayout lay_out(const UnitNames& names,
                   const torch::OrderedDict<std::string, at::Tensor>& parameters,
                   int64_t shard) {
  UnitLayout layout{.name = names.name};
  std::vector<std::string> sorted = names.parameters;
  std::sort(sorted.begin(), sorted.end());
  invariant(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(),
            "a unit names a parameter once");
  for (const std::string& name : sorted) {
    const at::Tensor& parameter = parameters[name];
    layout.tensors.push_back({.name = name,
                              .shape = parameter.sizes().vec(),
                              .offset = layout.numel,
                              .numel = parameter.numel()});
    layout.numel += parameter.numel();
  }
  layout.padded = round_up(layout.numel, shard);
  return layout;
}

}  // namespace

std::vector<UnitNames> one_unit(const torch::nn::Module& module) {
  UnitNames all{.name = "all"};
  for (const auto& parameter : module.named_parameters()) {
    all.parameters.push_back(parameter.key());
  }
  return {all};
}

Units::Units(const torch::nn::Module& module,
             const std::vector<UnitNames>& partition,
             const UnitsOptions& options,
             const distributed::Mesh& mesh)
    : options_(options), mesh_(mesh) {
  const c10::NoGradGuard no_grad;
  const at::ScalarType wide = options.compute == at::kDouble ? at::kDouble : at::kFloat;
  master_type_ = options.is_trainable ? wide : options.compute;
  const auto parameters = module.named_parameters();
  const int64_t shard = mesh_.shard->size();
  for (const UnitNames& names : partition) {
    const UnitLayout& layout = layout_.emplace_back(lay_out(names, parameters, shard));
    const auto master = at::TensorOptions(master_type_).device(options.device);
    Unit& unit = units_.emplace_back();
    unit.master = at::zeros({layout.padded / shard}, master);
    if (options.is_trainable) {
      unit.gradient = at::zeros({layout.padded / shard}, master);
    }
    const at::Tensor flat = shard == 1 ? unit.master : at::zeros({layout.padded}, master);
    for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
      const UnitTensor& tensor = layout.tensors[i];
      const at::Tensor& parameter = parameters[tensor.name];
      flat.narrow(0, tensor.offset, tensor.numel).view(tensor.shape).copy_(parameter.detach());
      unit.views.push_back({.parameter = parameter, .tensor = i});
    }
    keep_own_slice(count() - 1, flat);
    withdraw(count() - 1);
    for (const Unit::View& view : unit.views) {
      view.parameter.set_requires_grad(options.is_trainable);
    }
  }
}

bool Units::holds_compute() const {
  return mesh_.shard->size() == 1 && master_type_ == options_.compute;
}

bool Units::adds_in_place() const {
  return mesh_.world->size() == 1 && master_type_ == options_.compute;
}

int64_t Units::num_parameters() const {
  int64_t sum = 0;
  for (const UnitLayout& layout : layout_) {
    sum += layout.numel;
  }
  return sum;
}

// flat [padded]; it may be the master itself.
void Units::keep_own_slice(int64_t unit, const at::Tensor& flat) {
  const at::Tensor& master = units_[static_cast<std::size_t>(unit)].master;
  if (flat.const_data_ptr() != master.const_data_ptr()) {
    master.copy_(flat.narrow(0, mesh_.shard->rank() * master.size(0), master.size(0)));
  }
}

int64_t Units::begin(int64_t unit) const {
  const UnitLayout& layout = layout_[static_cast<std::size_t>(unit)];
  return std::min(layout.numel, mesh_.shard->rank() * (layout.padded / mesh_.shard->size()));
}

at::Tensor Units::master(int64_t unit) const {
  const at::Tensor& slice = units_[static_cast<std::size_t>(unit)].master;
  const int64_t left = layout_[static_cast<std::size_t>(unit)].numel - begin(unit);
  return slice.narrow(0, 0, std::min(left, slice.size(0)));
}

at::Tensor Units::gradient(int64_t unit) const {
  invariant(is_trainable(), "a frozen network has no gradient");
  const at::Tensor& slice = units_[static_cast<std::size_t>(unit)].gradient;
  return slice.narrow(0, 0, master(unit).size(0));
}

std::vector<FlatPiece> Units::pieces() const {
  std::vector<FlatPiece> pieces;
  for (int64_t i = 0; i < count(); ++i) {
    pieces.push_back({.unit = layout_[static_cast<std::size_t>(i)].name,
                      .kind = "p",
                      .begin = begin(i),
                      .values = master(i)});
  }
  return pieces;
}

// The unit as one buffer of this type; the master itself where that is all of it.
at::Tensor Units::whole(const Unit& unit, at::ScalarType type) const {
  const at::Tensor part = unit.master.to(type);  // [padded / shard]
  if (mesh_.shard->size() == 1) {
    return part;
  }
  at::Tensor gathered = at::empty({part.size(0) * mesh_.shard->size()}, part.options());
  mesh_.shard->all_gather(gathered, part);
  return gathered;  // [padded]
}

void Units::view_into(int64_t unit, const at::Tensor& flat) {
  const UnitLayout& layout = layout_[static_cast<std::size_t>(unit)];
  for (const Unit::View& view : units_[static_cast<std::size_t>(unit)].views) {
    const UnitTensor& tensor = layout.tensors[view.tensor];
    view.parameter.set_data(flat.narrow(0, tensor.offset, tensor.numel).view(tensor.shape));
  }
}

// Parameters as they are between uses.
void Units::withdraw(int64_t index) {
  Unit& unit = units_[static_cast<std::size_t>(index)];
  unit.compute = at::Tensor();
  if (holds_compute()) {
    view_into(index, unit.master);
    return;
  }
  const at::Tensor nan =
      at::full({}, kNaN, at::TensorOptions(options_.compute).device(options_.device));
  for (const Unit::View& view : unit.views) {
    view.parameter.set_data(nan.expand(view.parameter.sizes()));  // one element of memory
  }
}

Units::Gathered::Gathered(Units& units, int64_t index) : units_(&units), unit_(index) {
  Unit& unit = units.units_[static_cast<std::size_t>(index)];
  if (unit.users++ == 0 && !units.holds_compute()) {
    const c10::NoGradGuard no_grad;
    unit.compute = units.whole(unit, units.options_.compute);  // [padded]
    units.view_into(index, unit.compute);
  }
}

Units::Gathered::~Gathered() {
  if (units_ != nullptr && --units_->units_[static_cast<std::size_t>(unit_)].users == 0 &&
      !units_->holds_compute()) {
    units_->withdraw(unit_);
  }
}

std::vector<Units::Gathered> Units::gather_all() {
  std::vector<Gathered> all;
  for (int64_t i = 0; i < count(); ++i) {
    all.push_back(gather(i));
  }
  return all;
}

void Units::open_gradients(int64_t index) {
  invariant(is_trainable(), "gradients of a trainable network");
  Unit& unit = units_[static_cast<std::size_t>(index)];
  invariant(!unit.is_open, "a unit's gradients are opened once at a time");
  unit.is_open = true;
}

// Autograd keeps each parameter's sum as it made it; what is added here is added for all of a unit
// at once, not in an operation a parameter.
void Units::close_gradients(int64_t index) {
  const c10::NoGradGuard no_grad;
  Unit& unit = units_[static_cast<std::size_t>(index)];
  const UnitLayout& layout = layout_[static_cast<std::size_t>(index)];
  invariant(unit.is_open, "a unit's gradients were opened");
  unit.is_open = false;
  std::vector<at::Tensor> sums, places;  // flat, one a parameter; where a parameter has none, none
  int64_t end = 0;                       // of the last
  const auto pad_to = [&](int64_t offset) {
    if (offset > end) {
      sums.push_back(at::zeros({offset - end}, unit.gradient.options().dtype(options_.compute)));
    }
  };
  for (const Unit::View& view : unit.views) {
    const UnitTensor& tensor = layout.tensors[view.tensor];
    const at::Tensor grad = view.parameter.mutable_grad();
    view.parameter.mutable_grad() = at::Tensor();
    if (!grad.defined()) {
      continue;
    }
    if (adds_in_place()) {
      places.push_back(unit.gradient.narrow(0, tensor.offset, tensor.numel));
    } else {
      pad_to(tensor.offset);
    }
    sums.push_back(grad.flatten());
    end = tensor.offset + tensor.numel;
  }
  if (sums.empty()) {
    invariant(mesh_.world->size() == 1, "all ranks make the same gradients");
    return;
  }
  if (adds_in_place()) {
    at::_foreach_add_(places, sums);
    return;
  }
  pad_to(layout.padded);
  at::Tensor sum = at::cat(sums).to(master_type_);  // [padded]
  if (mesh_.world->size() > 1) {
    sum.div_(mesh_.world->size());
    at::Tensor part = at::empty({unit.gradient.size(0)}, sum.options());
    mesh_.shard->reduce_scatter_sum(part, sum);
    mesh_.replicate->all_reduce_sum(part);
    sum = part;  // [padded / shard]
  }
  unit.gradient.add_(sum);
}

void Units::zero_gradients() {
  for (const Unit& unit : units_) {
    if (unit.gradient.defined()) {
      unit.gradient.zero_();
    }
  }
}

void Units::initialise(const std::function<void()>& write) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> wholes;
  for (int64_t i = 0; i < count(); ++i) {
    const Unit& unit = units_[static_cast<std::size_t>(i)];
    invariant(unit.users == 0, "weights are set while nothing is gathered");
    view_into(i, wholes.emplace_back(whole(unit, master_type_)));
  }
  write();
  for (int64_t i = 0; i < count(); ++i) {
    keep_own_slice(i, wholes[static_cast<std::size_t>(i)]);
    withdraw(i);
  }
}

void Units::lend(const torch::nn::Module& module, const std::vector<UnitNames>& partition) {
  const c10::NoGradGuard no_grad;
  invariant(!is_trainable(), "only frozen weights are shared");
  invariant(partition.size() == layout_.size(), "both modules have the same units");
  const auto parameters = module.named_parameters();
  for (std::size_t i = 0; i < partition.size(); ++i) {
    const std::vector<UnitTensor>& tensors = layout_[i].tensors;
    invariant(units_[i].users == 0, "weights are lent while nothing is gathered");
    for (const std::string& name : partition[i].parameters) {
      const at::Tensor& parameter = parameters[name];
      const auto held = std::find_if(tensors.begin(), tensors.end(), [&](const UnitTensor& t) {
        return t.name == name && parameter.sizes() == t.shape;
      });
      invariant(held != tensors.end(), "a shared weight is one of the base, of the same shape");
      units_[i].views.push_back(
          {.parameter = parameter, .tensor = static_cast<std::size_t>(held - tensors.begin())});
      parameter.set_requires_grad(false);
    }
    withdraw(static_cast<int64_t>(i));
  }
}

std::vector<Units::Named> Units::values() const {
  std::vector<Named> named;
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    const at::Tensor flat = whole(units_[i], master_type_);  // [padded]
    for (const UnitTensor& tensor : layout_[i].tensors) {
      named.push_back({.name = tensor.name,
                       .value = flat.narrow(0, tensor.offset, tensor.numel).view(tensor.shape)});
    }
  }
  return named;
}

}  // namespace fastwan::training
