// Networks of a training run.
#include <map>
#include <utility>

#include <c10/core/GradMode.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/tensor_entry/train_parts.h"
#include "models/layout/tensors.h"
#include "models/wan_dit.h"
#include "models/wan_dit_files.h"
#include "ops/attention.h"
#include "training/random_start.h"

namespace fastwan::cli {
namespace {

using config::RoleModel;

ops::TopkRule topk_rule(const config::Recipe& recipe) {
  return recipe.training.vsa.topk_rule == config::TopkFormula::kUnpadded ? ops::TopkRule::kUnpadded
                                                                         : ops::TopkRule::kPadded;
}

std::shared_ptr<const ops::Attention> attention_of(const config::Recipe& recipe,
                                                   const RoleModel& model) {
  if (model.attention_backend != config::AttentionBackend::kVsa) {
    return std::make_shared<ops::FullAttention>();
  }
  const config::Vsa& vsa = recipe.training.vsa;
  return std::make_shared<ops::VsaAttention>(
      ops::Sparsity{.value = vsa.sparsity, .rule = topk_rule(recipe)}, vsa.coarse_branch);
}

training::Recompute recompute_of(const config::Recipe& recipe, const RoleModel& model) {
  const auto wanted = model.enable_gradient_checkpointing_type == config::Recompute::kInherit
                          ? recipe.training.model.enable_gradient_checkpointing_type
                          : model.enable_gradient_checkpointing_type;
  switch (wanted) {
    case config::Recompute::kNone:
      return training::Recompute::kNone;
    case config::Recompute::kEveryN:
      return training::Recompute::kEveryN;
    default:
      return training::Recompute::kFull;
  }
}

NetworkDraft draft_network(const TrainContext& context,
                           const TrainData& data,
                           const std::string& role,
                           const RoleModel& model) {
  NetworkDraft out{.folder = layout::open_model_folder(context.folder_of(model.init_from), {}),
                   .attention = attention_of(context.recipe, model)};
  if (out.folder.transformer_2) {
    throw InvalidInput(Code::kUnsupportedModel,
                       str("models.", role, ".init_from ", model.init_from,
                           " has two experts; training of one network at a time is what there is"));
  }
  const layout::TrainedNetwork network{.role = role,
                                       .place = out.folder.transformer.string(),
                                       .config = out.folder.transformer_config};
  layout::check_inputs(network, inputs_of(data.folder));
  layout::check_patches(network, {.channels = data.latent_shape[0],
                                  .frames = data.latent_shape[1],
                                  .height = data.latent_shape[2],
                                  .width = data.latent_shape[3]});
  out.config = out.folder.transformer_config;
  out.config.is_gated = out.attention->wants_gate();
  if (model.lora.enable) {
    layout::lora_modules(out.config, model.lora.target_modules);
  }
  if (model.init != config::WeightsInit::kRandom) {
    out.files =
        std::make_shared<const io::WeightFiles>(io::WeightFiles::open(out.folder.transformer));
    models::check_wan_dit_files(out.config, *out.files);
  }
  return out;
}

// `base`: whose frozen weights are this network's too, or null.
RoleNetwork load_network(const TrainContext& context,
                         const NetworkDraft& draft,
                         const RoleModel& model,
                         const std::shared_ptr<const training::Network>& base) {
  const config::Recipe& recipe = context.recipe;
  RoleNetwork out{.folder = draft.folder};
  const models::RoundingProfile profile = training::training_profile(compute_type(recipe));
  std::shared_ptr<models::WanDit> dit;
  if (draft.files) {
    dit = models::load_wan_dit(
        draft.config, *draft.files, draft.attention,
        {.profile = profile, .device = context.device, .on_note = context.on_note});
  } else {
    dit = std::make_shared<models::WanDit>(draft.config, draft.attention, profile, context.device);
    training::fill_random(*dit, static_cast<uint64_t>(recipe.training.data.seed));
  }
  training::NetworkOptions options{.is_trainable = model.trainable,
                                   .recompute = recompute_of(recipe, model),
                                   .every_n = recipe.training.model.recompute_every_n,
                                   .base = base,
                                   .device = context.device};
  if (model.lora.enable) {
    out.lora = lora_of(recipe, model);
    training::add_lora(*dit, *out.lora);
    options.trains = training::lora_trains(*out.lora);
  }
  out.network = std::make_shared<training::Network>(dit, options, context.mesh);
  if (model.trainable && compute_type(recipe) == at::kBFloat16 && !out.lora) {
    if (draft.files) {
      const auto exact = models::load_wan_dit(
          draft.config, *draft.files, draft.attention,
          {.profile = models::RoundingProfile::fp32(), .device = at::kCPU, .on_note = {}});
      // The masters must not be rounded first: the file's values, not the network's.
      out.network->units().initialise([&] { copy_values(*exact, *dit); });
    } else {
      out.network->units().initialise(
          [&] { training::fill_random(*dit, static_cast<uint64_t>(recipe.training.data.seed)); });
    }
  }
  return out;
}

void assign(const std::map<std::string, at::Tensor>& values, const torch::nn::Module& to) {
  const c10::NoGradGuard no_grad;
  for (const auto& parameter : to.named_parameters()) {
    if (const auto found = values.find(parameter.key()); found != values.end()) {
      parameter.value().detach().copy_(found->second);
    }
  }
}

}  // namespace

training::LoraOptions lora_of(const config::Recipe& recipe, const RoleModel& model) {
  return {.rank = model.lora.rank,
          .alpha = model.lora.alpha > 0 ? model.lora.alpha : static_cast<double>(model.lora.rank),
          .target_modules = model.lora.target_modules,
          .trains_gates = model.attention_backend == config::AttentionBackend::kVsa,
          .seed = static_cast<uint64_t>(recipe.training.data.seed)};
}

void copy_values(const torch::nn::Module& from, const torch::nn::Module& to) {
  std::map<std::string, at::Tensor> values;
  for (const auto& parameter : from.named_parameters()) {
    values.emplace(parameter.key(), parameter.value());
  }
  assign(values, to);
}

void copy_values(const training::Units& from, const torch::nn::Module& to) {
  std::map<std::string, at::Tensor> values;
  for (const training::Units::Named& named : from.values()) {
    values.emplace(named.name, named.value);
  }
  assign(values, to);
}

void copy_values(const std::vector<training::ExportTensor>& from, const torch::nn::Module& to) {
  std::map<std::string, at::Tensor> values;
  for (const training::ExportTensor& weight : from) {
    values.emplace(weight.name, weight.value());
  }
  assign(values, to);
}

at::ScalarType compute_type(const config::Recipe& recipe) {
  switch (recipe.training.compute_dtype) {
    case config::ComputeDtype::kFp64:
      return at::kDouble;
    case config::ComputeDtype::kFp32:
      return at::kFloat;
    case config::ComputeDtype::kBf16:
      break;
  }
  return at::kBFloat16;
}

NetworkDrafts draft_networks(const TrainContext& context, const TrainData& data) {
  NetworkDrafts drafts;
  for (const auto& [role, model] : context.recipe.models) {
    drafts.emplace(role, draft_network(context, data, role, model));
  }
  return drafts;
}

RoleNetworks load_networks(const TrainContext& context, const NetworkDrafts& drafts) {
  const std::map<std::string, RoleModel>& models = context.recipe.models;
  RoleNetworks networks;
  const auto add = [&](const std::string& role,
                       const std::shared_ptr<const training::Network>& base) {
    const RoleModel& model = models.at(role);
    context.watch.throw_if_stopped();
    context.on_note(str("loading ", role, " from ", model.init_from));
    networks.emplace(role, load_network(context, drafts.at(role), model, base));
  };
  std::shared_ptr<const training::Network> base;
  if (models.at("student").lora.shared_base) {
    add("teacher", nullptr);
    base = networks.at("teacher").network;
  }
  for (const auto& [role, model] : models) {
    if (!networks.contains(role)) {
      add(role, base);
    }
  }
  return networks;
}

}  // namespace fastwan::cli
