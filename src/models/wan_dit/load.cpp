#include <algorithm>
#include <set>

#include "base/text.h"
#include "models/checkpoint.h"
#include "models/layout/tensors.h"
#include "models/wan_dit.h"
#include "models/wan_dit_files.h"

namespace fastwan::models {
namespace {

bool is_gate(const std::string& name) {
  return name.find(layout::kGateName) != std::string::npos;
}

bool is_adapter(const std::string& name) {
  return name.find(".lora_") != std::string::npos;
}

std::string diffusers_name(const std::string& name) {
  return layout::diffusers_name_of_original(layout::diffusers_name_of_fastvideo(name));
}

// Gates that a gated model has and the files have not; their parameters become zero.
int64_t zero_missing_gates(WanDit& model, const io::WeightFiles& files) {
  std::set<std::string> stored;
  for (const std::string& name : files.names()) {
    stored.insert(diffusers_name(name));
  }
  int64_t num_missing = 0;
  for (const auto& parameter : model.named_parameters()) {
    if (is_gate(parameter.key()) && !is_adapter(parameter.key()) &&
        !stored.contains(parameter.key())) {
      parameter.value().zero_();
      ++num_missing;
    }
  }
  return num_missing;
}

LoadOptions load_options(bool is_gated) {
  return {
      .rename = diffusers_name,
      .may_be_missing = [](const std::string& name) { return is_gate(name) || is_adapter(name); },
      .is_ignored =
          [is_gated](const std::string& name) {
            return (!is_gated && is_gate(name)) || name.ends_with("_extra_state");
          }};
}

}  // namespace

void check_wan_dit_files(const layout::WanDitConfig& config, const io::WeightFiles& files) {
  check_weights(layout::tensors_of(config), files, load_options(config.is_gated));
}

bool has_gates(const io::WeightFiles& files) {
  const std::vector<std::string> names = files.names();
  return std::any_of(names.begin(), names.end(), is_gate);
}

void load_wan_dit_weights(WanDit& model,
                          const io::WeightFiles& files,
                          const std::function<void(const std::string&)>& on_note) {
  const auto note = [&](const std::string& text) {
    if (on_note) {
      on_note(str(files.where().string(), ": ", text));
    }
  };
  const bool is_gated = model.config().is_gated;
  if (!is_gated && has_gates(files)) {
    note("the attention has no coarse branch: gate weights are left out");
  }
  if (is_gated) {
    if (const int64_t num_missing = zero_missing_gates(model, files); num_missing > 0) {
      note(str(num_missing, " gate weights are not in the files: zeros are used"));
    }
  }
  load_weights(model, files, load_options(is_gated));
}

std::shared_ptr<WanDit> load_wan_dit(layout::WanDitConfig config,
                                     const io::WeightFiles& files,
                                     std::shared_ptr<const ops::Attention> attention,
                                     const WanDitOptions& options) {
  config.is_gated = attention->wants_gate();
  check_wan_dit_files(config, files);
  auto model =
      std::make_shared<WanDit>(config, std::move(attention), options.profile, options.device);
  load_wan_dit_weights(*model, files, options.on_note);
  return model;
}

}  // namespace fastwan::models
