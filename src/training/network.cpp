#include "training/network.h"

#include <utility>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

using torch::autograd::variable_list;

struct Parts {
  const models::WanDit* model;
  Units* trained;  // null: nothing trains
  Units* frozen;   // null: everything trains
  std::shared_ptr<const ops::Attention> attention;
  ops::AttentionPlan plan;
  models::Rope rope;

  int64_t last_unit() const { return static_cast<int64_t>(model->blocks().size()) + 1; }
  bool trains(int64_t unit) const {
    return trained != nullptr && !trained->layout()[static_cast<std::size_t>(unit)].tensors.empty();
  }
  std::vector<Units::Gathered> gather(int64_t unit) const {
    std::vector<Units::Gathered> gathered;
    for (Units* const units : {trained, frozen}) {
      if (units != nullptr) {
        gathered.push_back(units->gather(unit));
      }
    }
    return gathered;
  }
};

at::Tensor leaf(const at::Tensor& x, bool wants_gradient) {
  return x.detach().set_requires_grad(wants_gradient);
}

// One call of a network: its units in order, and what it keeps for its backward.
class Call final : public torch::CustomClassHolder {
 public:
  Call(Parts parts, const NetworkOptions& options)
      : parts_(std::move(parts)), recompute_(options.recompute), every_n_(options.every_n) {}

  // Without gradient.
  at::Tensor infer(const at::Tensor& latents,
                   const at::Tensor& timestep,
                   const at::Tensor& encoded) {
    const c10::NoGradGuard no_grad;
    timestep_ = timestep;
    latent_sizes_ = latents.sizes().vec();
    variable_list out;
    for (int64_t unit = 0; unit <= parts_.last_unit(); ++unit) {
      const auto gathered = parts_.gather(unit);
      out = run(unit, unit == 0 ? variable_list{latents, encoded} : inputs_of(unit, out[0]));
      share(unit, out);
    }
    return out[0];  // [B, C, T, H, W]
  }

  // With all that backward() needs.
  at::Tensor forward(const at::Tensor& latents,
                     const at::Tensor& timestep,
                     const at::Tensor& encoded) {
    const c10::AutoGradMode with_graph(true);
    timestep_ = timestep.detach();
    latent_sizes_ = latents.sizes().vec();
    const bool trains_root = parts_.trains(0);
    bool wants_input = trains_root || latents.requires_grad();
    wants_text_ = trains_root || encoded.requires_grad();
    wants_time_ = trains_root;
    at::Tensor x;
    for (int64_t unit = 0; unit <= parts_.last_unit(); ++unit) {
      Segment segment{.in = unit == 0 ? variable_list{leaf(latents, latents.requires_grad()),
                                                      leaf(encoded, encoded.requires_grad())}
                                      : inputs_of(unit, leaf(x, wants_input))};
      segment.gathered = parts_.gather(unit);
      segment.out = run(unit, segment.in);
      share(unit, segment.out);
      x = segment.out[0].detach();
      if (is_recomputed(unit)) {
        segment.out.clear();
        segment.gathered.clear();
      }
      segments_.push_back(std::move(segment));
      wants_input = wants_input || parts_.trains(unit);
    }
    return x;  // [B, C, T, H, W]
  }

  struct InputGradients {
    at::Tensor latents, encoded;  // undefined where not wanted
  };

  InputGradients backward(const at::Tensor& grad_velocity) {
    invariant(!segments_.empty(), "a call of a network goes backward once");
    const c10::AutoGradMode with_graph(true);
    at::Tensor grad = grad_velocity;
    for (int64_t unit = parts_.last_unit(); unit > 0; --unit) {
      grad = backward_unit(unit, {grad})[0];
    }
    const variable_list of_inputs =
        backward_unit(0, {grad, temb_.grad(), table_.grad(), text_.grad()});
    return {.latents = of_inputs[0], .encoded = of_inputs[1]};
  }

 private:
  // A unit of this call: leaves, what it made of them, and its parameters while its graph is kept.
  struct Segment {
    variable_list in, out;
    std::vector<Units::Gathered> gathered;
  };

  bool is_recomputed(int64_t unit) const {
    const int64_t block = unit - 1;
    switch (recompute_) {
      case Recompute::kNone:
        return false;
      case Recompute::kEveryN:
        return unit == 0 || unit == parts_.last_unit() || block % every_n_ == 0;
      case Recompute::kFull:
        break;
    }
    return true;
  }

  variable_list inputs_of(int64_t unit, const at::Tensor& x) const {
    return unit == parts_.last_unit() ? variable_list{x, temb_} : variable_list{x, table_, text_};
  }

  // What later units share with root_in.
  void share(int64_t unit, const variable_list& out) {
    if (unit == 0) {
      temb_ = leaf(out[1], wants_time_);
      table_ = leaf(out[2], wants_time_);
      text_ = leaf(out[3], wants_text_);
    }
  }

  variable_list run(int64_t unit, const variable_list& in) {
    const models::WanDit& model = *parts_.model;
    if (unit == 0) {
      const at::Tensor text = model.embed_text(in[1]);  // [B, L, D]
      const models::WanDit::State state = model.head_in(in[0], timestep_, parts_.plan);
      row_ = state.time.row();
      return {state.x, state.temb, state.time.table(), text};
    }
    if (unit == parts_.last_unit()) {
      return {model.head_out({.x = in[0], .temb = in[1], .time = models::Modulation(table_, row_)},
                             latent_sizes_)};
    }
    const models::WanBlock& block = *model.blocks()[static_cast<std::size_t>(unit - 1)];
    return {block.forward(in[0], in[2], models::Modulation(in[1], row_), parts_.rope,
                          *parts_.attention, parts_.plan)};
  }

  // Gradients of the unit's outputs to those of its inputs; its parameters' are added to the
  // network's.
  variable_list backward_unit(int64_t unit, const variable_list& grads) {
    Segment segment = std::move(segments_.back());
    segments_.pop_back();
    if (segment.out.empty()) {
      segment.gathered = parts_.gather(unit);
      segment.out = run(unit, segment.in);
    }
    variable_list outputs, output_grads;
    for (std::size_t i = 0; i < grads.size(); ++i) {
      if (segment.out[i].requires_grad() && grads[i].defined()) {
        outputs.push_back(segment.out[i]);
        output_grads.push_back(grads[i]);
      }
    }
    if (!outputs.empty()) {
      if (parts_.trained != nullptr) {
        parts_.trained->open_gradients(unit);
      }
      torch::autograd::backward(outputs, output_grads);
      if (parts_.trained != nullptr) {
        parts_.trained->close_gradients(unit);
      }
    }
    variable_list of_inputs;
    for (const at::Tensor& in : segment.in) {
      of_inputs.push_back(in.grad());
    }
    return of_inputs;
  }

  Parts parts_;
  Recompute recompute_;
  int64_t every_n_;
  bool wants_time_ = false, wants_text_ = false;
  std::vector<int64_t> latent_sizes_;
  at::Tensor timestep_;             // [B] or [B, S]
  at::Tensor temb_, table_, text_;  // [U, D], [U, 6, D], [B, L, D]: leaves
  at::Tensor row_;                  // as timestep: which of U
  std::vector<Segment> segments_;
};

struct NetworkFunction : torch::autograd::Function<NetworkFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const c10::intrusive_ptr<Call>& call,
                            const at::Tensor& /*anchor*/,
                            const at::Tensor& latents,
                            const at::Tensor& timestep,
                            const at::Tensor& encoded) {
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    ctx->save_for_backward({latents, timestep, encoded});  // notices a change in place
    return call->forward(latents, timestep, encoded);
  }

  static variable_list backward(torch::autograd::AutogradContext* ctx, const variable_list& grads) {
    const variable_list unchanged = ctx->get_saved_variables();
    const auto holder = ctx->saved_data["call"].toCapsule();
    const auto of_inputs = static_cast<Call*>(holder.get())->backward(grads[0]);
    const at::Tensor none;
    return {none, none, of_inputs.latents, none, of_inputs.encoded};
  }
};

}  // namespace

std::vector<UnitNames> wan_units(const models::WanDit& model) {
  std::vector<UnitNames> units(model.blocks().size() + 2);
  units.front().name = "root_in";
  units.back().name = "root_out";
  for (std::size_t i = 0; i < model.blocks().size(); ++i) {
    units[i + 1].name = str("block_", i);
  }
  for (const auto& parameter : model.named_parameters()) {
    const std::string& name = parameter.key();
    const std::vector<std::string> words = split(name, '.');
    if (words[0] == "blocks") {
      units[static_cast<std::size_t>(std::stoll(words[1])) + 1].parameters.push_back(name);
    } else if (words[0] == "patch_embedding" || words[0] == "condition_embedder") {
      units.front().parameters.push_back(name);
    } else {
      units.back().parameters.push_back(name);
    }
  }
  return units;
}

models::RoundingProfile training_profile(at::ScalarType compute) {
  switch (compute) {
    case at::kFloat:
      return models::RoundingProfile::fp32();
    case at::kDouble:
      return models::RoundingProfile::fp64();
    case at::kBFloat16:
      return models::RoundingProfile::fastvideo_bf16();
    default:
      throw InvalidInput(Code::kBadValue, str("training.compute_dtype must be fp32, bf16 or fp64, ",
                                              "got ", at::toString(compute)));
  }
}

Network::Network(std::shared_ptr<models::WanDit> model,
                 const NetworkOptions& options,
                 const distributed::Mesh& mesh)
    : model_(std::move(model)), options_(options) {
  invariant(options.every_n >= 1, "every_n is at least 1");
  const models::RoundingProfile& profile = model_->profile();
  invariant(profile.kept == profile.compute, "a network trains in one parameter dtype");
  const auto trains = [&options](const std::string& name) {
    return options.is_trainable && (!options.trains || options.trains(name));
  };
  std::vector<UnitNames> trained, frozen;
  std::size_t num_trained = 0, num_frozen = 0;
  for (const UnitNames& unit : wan_units(*model_)) {
    trained.push_back({.name = unit.name});
    frozen.push_back({.name = unit.name});
    for (const std::string& name : unit.parameters) {
      (trains(name) ? trained : frozen).back().parameters.push_back(name);
    }
    num_trained += trained.back().parameters.size();
    num_frozen += frozen.back().parameters.size();
  }
  invariant(num_trained > 0 || !options.is_trainable, "a trainable network trains something");
  const auto make = [&](const std::vector<UnitNames>& names, bool is_trainable) {
    return std::make_unique<Units>(
        *model_, names,
        UnitsOptions{
            .is_trainable = is_trainable, .compute = profile.compute, .device = options.device},
        mesh);
  };
  if (num_trained > 0) {
    trained_ = make(trained, true);
  }
  if (num_frozen > 0 && options.base != nullptr) {
    frozen_ = options.base->frozen_;
    invariant(frozen_ != nullptr, "a shared base has frozen weights");
    frozen_->lend(*model_, frozen);
  } else if (num_frozen > 0) {
    frozen_ = make(frozen, false);
  }
  anchor_ = at::zeros({}).set_requires_grad(true);
  set_attention(model_->shared_attention());
}

void Network::initialise(const std::function<void()>& write) {
  std::function<void()> all = write;
  for (Units* const units : {trained_.get(), frozen_.get()}) {
    if (units != nullptr) {
      all = [units, inner = std::move(all)] { units->initialise(inner); };
    }
  }
  all();
}

void Network::set_attention(std::shared_ptr<const ops::Attention> attention) {
  invariant(!attention->wants_gate() || model_->config().is_gated,
            "an attention with a coarse branch needs a model with gates");
  attention_ = std::move(attention);
}

at::Tensor Network::velocity(const at::Tensor& latents,
                             const at::Tensor& timestep,
                             const at::Tensor& encoded_text) {
  invariant(latents.dim() == 5, "latents are [B, C, T, H, W]");
  const std::vector<int64_t> grid = latents.sizes().slice(2).vec();  // T, H, W
  if (plan_grid_ != grid) {
    plan_ = model_->plan_for(latents.sizes(), latents.device());
    rope_ = model_->rope_for(plan_, latents.device());
    plan_grid_ = grid;
  }
  const auto call = c10::make_intrusive<Call>(Parts{.model = model_.get(),
                                                    .trained = trained_.get(),
                                                    .frozen = frozen_.get(),
                                                    .attention = attention_,
                                                    .plan = plan_,
                                                    .rope = rope_},
                                              options_);
  const bool wants_gradient =
      c10::GradMode::is_enabled() &&
      (trained_ != nullptr || latents.requires_grad() || encoded_text.requires_grad());
  if (!wants_gradient) {
    return call->infer(latents, timestep, encoded_text);
  }
  return NetworkFunction::apply(call, anchor_, latents, timestep, encoded_text);
}

}  // namespace fastwan::training
