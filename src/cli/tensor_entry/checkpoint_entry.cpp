// fastwan_consolidate and fastwan_diff_checkpoints.
#include "base/check.h"
#include "base/text.h"
#include "cli/checkpoint_calls.h"
#include "cli/tensor_entry/train_parts.h"
#include "training/checkpoint.h"
#include "training/export.h"

namespace fastwan::cli {
namespace {

// What becomes one file has no other parts to take or link.
void require_file_alone(const ConsolidateCall& call, const char* what) {
  if (!call.base.empty() || !call.dtype.empty() || call.links) {
    throw InvalidInput(Code::kConflict, str("the checkpoint holds ", what,
                                            " in fp32, and --base, --dtype and --link have no part "
                                            "in it. Leave them out"));
  }
  if (std::filesystem::exists(call.to)) {
    throw Failure(Code::kExists, str(call.to.string(), " exists. Name another folder"));
  }
}

// Adapters are a file beside any base, in fp32, as the run exports them.
void consolidate_lora(const ConsolidateCall& call,
                      const std::vector<training::ExportTensor>& weights,
                      const training::LoraOptions& options,
                      const Sampling& sampling) {
  require_file_alone(call, "adapters: they become a LoRA file");
  std::vector<models::NamedTensor> trained;
  for (const training::ExportTensor& weight : weights) {
    trained.push_back({.name = weight.name, .tensor = weight.value()});
  }
  training::LoraExport lora = training::export_lora(trained, options);
  lora.metadata.merge(lora_metadata(sampling));
  training::save_lora(call.to, lora);
}

// The folder that the run took the role's model from.
Path base_of(const ConsolidateCall& call,
             const training::Checkpoint& checkpoint,
             const std::pair<const std::string, config::RoleModel>& role) {
  const std::map<std::string, std::string>& commits = checkpoint.state().snapshots;
  const auto found = commits.find("models." + role.first + ".init_from");
  return call.locate(role.second.init_from, found == commits.end() ? "" : found->second);
}

// A feature net is one file in fp32 with no model folder around it, as the run exports it.
void consolidate_features(const ConsolidateCall& call,
                          const config::Recipe& recipe,
                          const std::vector<training::ExportTensor>& weights) {
  require_file_alone(call, "a feature net: it becomes one file");
  const Watch watch;
  export_shapes({.recipe = recipe, .watch = watch, .options = {.base = {}, .to = call.to}},
                weights);
}

void consolidate(const ConsolidateCall& call) {
  using training::PieceKind;
  const training::Checkpoint checkpoint = training::Checkpoint::open(call.checkpoint);
  const config::Recipe recipe =
      config::parse_recipe(checkpoint.state().config, (call.checkpoint / "config.yaml").string());
  const auto model = recipe.models.find(call.role);
  if (model == recipe.models.end()) {
    throw InvalidInput(Code::kBadValue, str("--role ", escape_control(call.role),
                                            " is none of this run's networks"));
  }
  const bool averaged = !call.raw && checkpoint.has(call.role, PieceKind::kEma);
  const std::vector<training::ExportTensor> weights = training::weights_of(
      checkpoint, call.role, averaged ? PieceKind::kEma : PieceKind::kParameter);
  if (model->second.lora.enable) {
    consolidate_lora(call, weights, lora_of(recipe, model->second), sampling_of(recipe, call.role));
    return;
  }
  if (recipe.method.kind == config::MethodKind::kFeatures) {
    consolidate_features(call, recipe, weights);
    return;
  }
  training::ExportOptions options = export_options(
      recipe, call.role, call.base.empty() ? base_of(call, checkpoint, *model) : call.base);
  if (!call.dtype.empty()) {
    options.dtype = call.dtype == "bf16" ? at::kBFloat16 : at::kFloat;
  }
  options.to = call.to;
  options.links = call.links;
  options.limit_bytes = 0;
  if (trains_flow(recipe)) {
    training::export_folder(weights, options);
    return;
  }
  const Watch watch;
  export_shapes({.recipe = recipe, .watch = watch, .options = options}, weights);
}

}  // namespace
}  // namespace fastwan::cli

extern "C" {

void fastwan_consolidate(const fastwan::cli::ConsolidateCall& call) {
  fastwan::cli::consolidate(call);
}

std::vector<std::string> fastwan_diff_checkpoints(const fastwan::Path& a, const fastwan::Path& b) {
  return fastwan::training::differences(fastwan::training::Checkpoint::open(a),
                                        fastwan::training::Checkpoint::open(b));
}
}
