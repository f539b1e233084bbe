#include "cli/tensor_entry/train_work.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "cli/distill_plan.h"
#include "cli/ramp.h"
#include "ops/topk.h"
#include "training/schedule.h"

namespace fastwan::cli {
namespace {

using config::Recipe;

struct Sizes {
  layout::TokenGrid grid;
  int64_t text_tokens = 0;
};

layout::AttentionMode mode_of(const Recipe& recipe,
                              bool is_gated,
                              const layout::TokenGrid& grid,
                              double sparsity) {
  const bool is_padded = recipe.training.vsa.topk_rule == config::TopkFormula::kPadded;
  return {.topk = is_padded ? ops::vsa_topk(sparsity, grid.num_tiles())
                            : ops::vsa_topk_unpadded(sparsity, grid.num_tokens(), grid.num_tiles()),
          .uses_gates = is_gated};
}

// A video through a role's network, once. `sparsity` is the student's.
layout::PassWork pass_of(const Recipe& recipe,
                         const std::string& role,
                         const RoleNetwork& network,
                         const Sizes& sizes,
                         double sparsity) {
  const config::RoleModel& model = recipe.models.at(role);
  const layout::WanDitConfig& config = network.network->model().config();
  layout::AttentionMode mode;
  if (model.attention_backend == config::AttentionBackend::kVsa) {
    mode = mode_of(recipe, config.is_gated, sizes.grid,
                   role == "student" ? sparsity : recipe.training.vsa.sparsity);
  }
  return layout::training_pass(config, sizes.grid, mode, sizes.text_tokens, {.one_of = 0},
                               !model.lora.enable);
}

}  // namespace

std::function<double(int64_t step)> operations_of(const Recipe& recipe,
                                                  std::shared_ptr<const RoleNetworks> networks,
                                                  const TrainData& data,
                                                  const training::Method& method) {
  const layout::LatentSize latent{.channels = data.latent_shape[0],
                                  .frames = data.latent_shape[1],
                                  .height = data.latent_shape[2],
                                  .width = data.latent_shape[3]};
  const Sizes sizes{
      .grid = layout::token_grid(networks->at("student").network->model().config(), latent),
      .text_tokens = recipe.training.data.text_len};
  const auto videos = static_cast<double>(config::global_batch(recipe));
  const training::SparsityRamp ramp = ramp_of(recipe.training.vsa);
  return [&recipe, networks = std::move(networks), &method, sizes, videos, ramp](int64_t step) {
    const auto pass = [&](const char* role) {
      return pass_of(recipe, role, networks->at(role), sizes,
                     training::ramped_sparsity(ramp, step - 1));  // as the iteration computed
    };
    if (recipe.method.kind != config::MethodKind::kDistill) {
      return videos * pass("student").total();
    }
    const layout::DistillWork work = layout::distill_work(
        pass("student"), pass("teacher"), pass("critic"), distill_plan(recipe.method));
    const std::vector<std::string> updated = method.updates(step);
    const bool is_students = std::find(updated.begin(), updated.end(), "student") != updated.end();
    return videos * (work.critic + (is_students ? work.student : 0));
  };
}

std::optional<double> peak_rate(const TrainContext& context, std::span<const double> gpu_rates) {
  const auto index = static_cast<std::size_t>(std::max<int>(0, context.device.index()));
  if (context.device.is_cpu() || compute_type(context.recipe) != at::kBFloat16 ||
      index >= gpu_rates.size() || gpu_rates[index] == 0) {
    return std::nullopt;
  }
  return gpu_rates[index] * static_cast<double>(context.mesh.world->size());
}

}  // namespace fastwan::cli
