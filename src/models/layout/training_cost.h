// Work and memory of a training run, from the configs of its networks and the sizes of a batch. No
// weights are read.
//
// Work    as in cost.h. Backward: twice the linear layers (once where only adapters train: no
//         gradient of frozen weights), 2.5 times attention, for which probabilities are computed
//         again. Recomputed blocks run forward twice
// State   bytes held from step to step: exact, padding of the shards included
// Passing bytes alive inside a step: an estimate that follows the order of the computation
//
// Dims    S video tokens, D width, F feed-forward width, B videos of a process and micro-batch
// Source  DMD iteration: FastVideo's legacy trainer; student sample, critic pass, and every n-th
//         iteration the student's own pass with one critic and two teacher forwards
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/layout/configs.h"
#include "models/layout/cost.h"

namespace fastwan::layout {

// How many blocks are computed again in backward: all, none, or one of n.
struct RecomputedBlocks {
  int64_t one_of = 1;  // 0: none
};

// Parameters of what is gathered, reduced and saved in one piece: root_in, the blocks, root_out.
std::vector<int64_t> unit_parameters(const WanDitConfig& config);
// Parameters that train with adapters of this rank on the layers that `words` name (lora_modules,
// tensors.h): the adapters, and the gates whole where the network has them.
int64_t lora_parameters(const WanDitConfig& config,
                        int64_t rank,
                        const std::vector<std::string>& words = {});

// The processes that hold one network's state together.
struct StateLayout {
  int64_t shard = 1;
  int64_t master_bytes = 4;        // a weight
  int64_t compute_bytes = 2;       // a weight as the networks use it
  int64_t first_moment_bytes = 4;  // 0: none is held
  int64_t second_moment_bytes = 4;
  int64_t average_bytes = 0;  // 0: none is held
  bool reduces_once = false;  // gradients stay whole until the last micro-batch
};

// Bytes of one process.
struct StateBytes {
  double masters = 0, first_moment = 0, second_moment = 0, average = 0;
  double gradients = 0;
  double frozen = 0;    // weights that do not train, in the compute type
  double gathered = 0;  // whole units while they are in use

  double held() const {
    return masters + first_moment + second_moment + average + gradients + frozen;
  }
};
// `units`: parameters of each; `trained`: how many of all train (0: a frozen network).
// `keeps_units`: gathered units stay until backward has used them (no recompute).
StateBytes state_bytes(const std::vector<int64_t>& units,
                       int64_t trained,
                       bool keeps_units,
                       const StateLayout& layout);

// One video through one network.
struct PassWork {
  double forward = 0;
  double recompute = 0;
  double backward = 0;

  double total() const { return forward + recompute + backward; }
};
PassWork training_pass(const WanDitConfig& config,
                       const TokenGrid& grid,
                       const AttentionMode& mode,
                       int64_t text_tokens,
                       const RecomputedBlocks& recomputed,
                       bool trains_weights);

// Bytes of the activations of B videos that backward needs: inputs of all units, what the kept
// blocks save, and what one recomputed block saves while its backward runs.
double pass_memory(const WanDitConfig& config,
                   const TokenGrid& grid,
                   const AttentionMode& mode,
                   int64_t videos,
                   const RecomputedBlocks& recomputed,
                   int64_t element);

// One iteration of distribution matching, a video.
struct DistillWork {
  double critic = 0;   // every iteration: student sample, critic pass
  double student = 0;  // every n-th besides: student passes, critic and teacher forwards
  double mean = 0;     // critic + student / n
};
struct DistillPlan {
  double earlier_forwards = 0;   // of the student before the one that counts: simulate mode
  int64_t teacher_forwards = 2;  // 1 without guidance
  int64_t update_interval = 5;
  bool regresses = false;  // a second pass of the student, on a teacher's trajectory
};
DistillWork distill_work(const PassWork& student,
                         const PassWork& teacher,
                         const PassWork& critic,
                         const DistillPlan& plan);

}  // namespace fastwan::layout
