// fastwan_consolidate and fastwan_diff_checkpoints.
#include "base/check.h"
#include "base/text.h"
#include "cli/checkpoint_calls.h"
#include "cli/tensor_entry/train_parts.h"
#include "training/checkpoint.h"
#include "training/export.h"

namespace fastwan::cli {
namespace {

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
  if (model->second.lora.enable) {
    throw InvalidInput(Code::kUnsupportedModel,
                       "the checkpoint holds adapters, not a whole network; the run's export is a "
                       "LoRA file that `fastwan generate --lora` takes");
  }
  const bool averaged = !call.raw && checkpoint.has(call.role, PieceKind::kEma);
  training::ExportOptions options = export_options(recipe, call.role);
  if (!call.base.empty()) {
    options.base = call.base;
  }
  if (!call.dtype.empty()) {
    options.dtype = call.dtype == "bf16" ? at::kBFloat16 : at::kFloat;
  }
  options.to = call.to;
  options.links = call.links;
  options.limit_bytes = 0;
  training::export_folder(training::weights_of(checkpoint, call.role,
                                               averaged ? PieceKind::kEma : PieceKind::kParameter),
                          options);
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
