// What a recipe will take: parameters and memory of each process, work of an iteration, hours. No
// weights are read; configs come from the recipe's folders, or are those of a published model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/recipe.h"
#include "models/layout/cost.h"
#include "models/layout/training_cost.h"

namespace fastwan::cli {

struct RolePlan {
  std::string role, network;
  int64_t parameters = 0;
  int64_t trained = 0;
  layout::StateBytes state;  // of one process
  // Of one process, while this network works; none for methods where they are not estimated.
  std::optional<double> activations;
  int64_t topk = 0;  // 0: full attention
};

struct TrainPlan {
  std::string method;
  int64_t processes = 1, data_ranks = 1, global_batch = 1, steps = 0;
  layout::LatentSize latent;
  layout::TokenGrid grid;  // of a transformer's video
  int64_t text_tokens = 0;
  std::vector<RolePlan> roles;
  double state_bytes = 0;  // of one process, held
  // The most of gathered weights and activations at once; none where activations are not known.
  std::optional<double> passing_bytes;
  double sparse_gain = 1;  // dense over sparse forward of the student
  // Work of an iteration of all processes.
  double work = 0;             // on average
  double critic_work = 0;      // distill: of every iteration
  double student_work = 0;     // distill: of an iteration that updates the student, besides
  double tera_per_second = 0;  // of one process, as asked
  double hours = 0;            // of all steps at that rate
  double rank_memory = 0;      // of one process: given, or of this machine's first GPU; 0: unknown
  // Least number of processes that must share a state to fit rank_memory; nullopt: none does.
  std::optional<int64_t> least_shard;

  std::optional<double> peak_bytes() const {
    return passing_bytes ? std::optional(state_bytes + *passing_bytes) : std::nullopt;
  }
};

struct PlanOptions {
  double tera_per_second = 400;
  double rank_memory = 0;
};

// IoError not_found for a model that is neither here nor published; InvalidInput conflict for
// shapes that do not go together.
TrainPlan plan_training(const config::Recipe& recipe,
                        const PlanOptions& options,
                        std::vector<std::string>& notes);
std::string plan_text(const TrainPlan& plan);
Json plan_json(const TrainPlan& plan);

}  // namespace fastwan::cli
