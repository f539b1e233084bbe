#include "models/layout/training_cost.h"

#include <algorithm>
#include <numeric>

#include "models/layout/tensors.h"

namespace fastwan::layout {
namespace {

double real(int64_t value) {
  return static_cast<double>(value);
}

// Attention saves its probabilities' row sums, not the probabilities.
constexpr double kAttentionBackward = 2.5;

double linear_work(const DitWork& work) {
  return work.linears + work.gates + work.ends;
}

double attention_work(const DitWork& work) {
  return work.attention + work.cross;
}

// Values that autograd keeps of one block, a token: input, two norms' inputs and outputs, q, k, v
// before and after norm and rotation, both attentions' inputs and results, the feed-forward's two
// wide activations.
double saved_values(const WanDitConfig& config, const TokenGrid& grid, const AttentionMode& mode) {
  constexpr double kWidths = 18;
  const double S = real(grid.num_tokens());
  const double D = real(config.width());
  double values = S * (kWidths * D + 2 * real(config.ffn_dim));
  if (mode.topk > 0) {
    constexpr double kTileSlots = 64;
    values += 4 * real(grid.num_tiles()) * kTileSlots * D;  // q, k, v, result in tile order
    values += mode.uses_gates ? 2 * S * D : 0;              // gate and coarse term
  }
  return values;
}

double recomputed_share(const RecomputedBlocks& recomputed, int64_t layers) {
  if (recomputed.one_of == 0) {
    return 0;
  }
  const int64_t count = (layers + recomputed.one_of - 1) / recomputed.one_of;
  return real(count) / real(layers);
}

}  // namespace

std::vector<int64_t> unit_parameters(const WanDitConfig& config) {
  std::vector<int64_t> units(static_cast<std::size_t>(config.num_layers) + 2, 0);
  for (const TensorSpec& tensor : tensors_of(config)) {
    std::size_t unit = 0;
    if (tensor.name.starts_with("blocks.")) {
      unit = 1 + static_cast<std::size_t>(std::stoll(tensor.name.substr(7)));
    } else if (tensor.name.starts_with("proj_out.") || tensor.name == "scale_shift_table") {
      unit = units.size() - 1;
    }
    units[unit] += tensor.num_elements();
  }
  return units;
}

int64_t lora_parameters(const WanDitConfig& config,
                        int64_t rank,
                        const std::vector<std::string>& words) {
  int64_t of_block = 0;
  for (const LoraModule& module : lora_modules(config, words)) {
    of_block += module.name == kGateName ? 0 : rank * (module.in + module.out);
  }
  const int64_t D = config.width();
  of_block += config.is_gated ? D * D + D : 0;
  return config.num_layers * of_block;
}

StateBytes state_bytes(const std::vector<int64_t>& units,
                       int64_t trained,
                       bool keeps_units,
                       const StateLayout& layout) {
  const int64_t all = std::accumulate(units.begin(), units.end(), int64_t{0});
  int64_t padded = 0;  // a process's share of all units
  int64_t widest = 0;
  for (const int64_t unit : units) {
    padded += (unit + layout.shard - 1) / layout.shard;
    widest = std::max(widest, unit);
  }
  StateBytes bytes;
  const bool is_whole = trained == all;
  const double mine = is_whole ? real(padded) : real((trained + layout.shard - 1) / layout.shard);
  bytes.masters = mine * real(layout.master_bytes);
  bytes.first_moment = mine * real(layout.first_moment_bytes);
  bytes.second_moment = mine * real(layout.second_moment_bytes);
  bytes.average = mine * real(layout.average_bytes);
  bytes.gradients = (layout.reduces_once ? real(trained) : mine) * real(layout.master_bytes);
  bytes.frozen = is_whole ? 0 : real(padded) * real(layout.compute_bytes);
  // A process that holds a unit whole and in the compute type uses it where it is.
  const bool is_in_place =
      layout.shard == 1 && (!is_whole || layout.master_bytes == layout.compute_bytes);
  if (!is_in_place) {
    bytes.gathered = real(keeps_units ? all : widest) * real(layout.compute_bytes);
  }
  return bytes;
}

PassWork training_pass(const WanDitConfig& config,
                       const TokenGrid& grid,
                       const AttentionMode& mode,
                       int64_t text_tokens,
                       const RecomputedBlocks& recomputed,
                       bool trains_weights) {
  const DitWork work = forward_work(config, grid, mode, text_tokens);
  PassWork pass;
  pass.forward = work.total();
  pass.recompute = recomputed_share(recomputed, config.num_layers) * (work.total() - work.ends);
  pass.backward =
      (trains_weights ? 2 : 1) * linear_work(work) + kAttentionBackward * attention_work(work);
  return pass;
}

double pass_memory(const WanDitConfig& config,
                   const TokenGrid& grid,
                   const AttentionMode& mode,
                   int64_t videos,
                   const RecomputedBlocks& recomputed,
                   int64_t element) {
  const double layers = real(config.num_layers);
  const double inputs = (layers + 2) * real(grid.num_tokens()) * real(config.width());
  const double saved = saved_values(config, grid, mode);
  const double share = recomputed_share(recomputed, config.num_layers);
  const double kept = (1 - share) * layers * saved + (share > 0 ? saved : 0);
  return real(videos) * real(element) * (inputs + kept);
}

DistillWork distill_work(const PassWork& student,
                         const PassWork& teacher,
                         const PassWork& critic,
                         const DistillPlan& plan) {
  DistillWork work;
  const double earlier = plan.earlier_forwards * student.forward;
  work.critic = earlier + student.forward + critic.total();
  work.student = earlier + (plan.regresses ? 2 : 1) * student.total() + critic.forward +
                 real(plan.teacher_forwards) * teacher.forward;
  work.mean = work.critic + work.student / real(plan.update_interval);
  return work;
}

}  // namespace fastwan::layout
