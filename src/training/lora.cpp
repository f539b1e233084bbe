#include "training/lora.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "base/check.h"
#include "base/rng.h"
#include "base/text.h"
#include "models/layout/tensors.h"
#include "training/export.h"

namespace fastwan::training {
namespace {

constexpr const char* kDown = ".lora_A.weight";
constexpr const char* kUp = ".lora_B.weight";

bool is_gate(const std::string& name) {
  return name.find(layout::kGateName) != std::string::npos;
}

bool is_adapter(const std::string& name) {
  return name.ends_with(kDown) || name.ends_with(kUp);
}

// Uniform in +-1/sqrt(in): Kaiming's law with a = sqrt(5). The slot is the adapter's place among
// all, in the order of names.
void fill_down(const at::Tensor& a, uint64_t seed, int64_t slot) {
  const Philox uniform(seed, Stream::kInit, /*step=*/0, slot);
  const double bound = 1.0 / std::sqrt(static_cast<double>(a.size(1)));
  at::Tensor values = at::empty({a.numel()}, at::kDouble);
  auto* const out = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    out[i] = bound * (2.0 * uniform.uniform(i) - 1.0);
  }
  a.detach().copy_(values.view(a.sizes()));
}

}  // namespace

void add_lora(models::WanDit& model, const LoraOptions& options) {
  if (options.rank < 1) {
    throw InvalidInput(Code::kBadValue, str("LoRA rank must be at least 1, got ", options.rank));
  }
  std::vector<std::string> modules;
  for (const layout::LoraModule& module :
       layout::lora_modules(model.config(), options.target_modules)) {
    if (!options.trains_gates || module.name != layout::kGateName) {
      modules.push_back(module.name);
    }
  }
  for (const auto& block : model.blocks()) {
    block->add_adapters({.rank = options.rank,
                         .scale = options.alpha / static_cast<double>(options.rank),
                         .modules = modules});
  }
  std::vector<std::string> downs;
  const auto parameters = model.named_parameters();
  for (const auto& parameter : parameters) {
    if (parameter.key().ends_with(kDown)) {
      downs.push_back(parameter.key());
    } else if (parameter.key().ends_with(kUp)) {
      parameter.value().detach().zero_();
    }
  }
  std::sort(downs.begin(), downs.end());
  for (std::size_t i = 0; i < downs.size(); ++i) {
    fill_down(parameters[downs[i]], options.seed, static_cast<int64_t>(i));
  }
}

std::function<bool(const std::string&)> lora_trains(const LoraOptions& options) {
  return [trains_gates = options.trains_gates](const std::string& name) {
    return is_adapter(name) || (trains_gates && is_gate(name));
  };
}

LoraExport export_lora(Network& network, const LoraOptions& options) {
  std::vector<models::NamedTensor> trained;
  for (const Units::Named& named : network.units().values()) {
    trained.push_back({.name = named.name, .tensor = named.value});
  }
  return export_lora(trained, options);
}

LoraExport export_lora(const std::vector<models::NamedTensor>& trained,
                       const LoraOptions& options) {
  LoraExport out{.metadata = {{"alpha", str(options.alpha)}, {"rank", str(options.rank)}}};
  const bool has_alpha = options.alpha != static_cast<double>(options.rank);
  for (const models::NamedTensor& named : trained) {
    out.tensors.push_back({.name = named.name, .tensor = named.tensor.to(at::kFloat)});
    if (has_alpha && named.name.ends_with(kDown)) {
      const std::string module =
          named.name.substr(0, named.name.size() - std::string(kDown).size());
      out.tensors.push_back({.name = module + ".alpha", .tensor = at::full({}, options.alpha)});
    }
  }
  return out;
}

void save_lora(const Path& to, const LoraExport& lora) {
  replace_export(to, [&lora](const Path& unfinished) {
    models::save_tensors(unfinished / "pytorch_lora_weights.safetensors", lora.tensors,
                         lora.metadata);
  });
}

}  // namespace fastwan::training
