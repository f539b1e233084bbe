// Training steps of recipes/tiny-shapes' transformer through the classes that `fastwan train` runs:
// the method's gradients, clipping, AdamW. A batch of 4, fp32.
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <ATen/ops/randn.h>

#include "base/heap.h"
#include "base/json.h"
#include "case.h"
#include "models/layout/configs.h"
#include "models/wan_dit.h"
#include "training/clip.h"
#include "training/dmd/distill.h"
#include "training/finetune.h"
#include "training/network.h"
#include "training/optimizer.h"
#include "training/random_start.h"
#include "training/role.h"

namespace fastwan::bench {
namespace {

using training::Network;
using training::Recompute;

constexpr int64_t kBatch = 4, kTextRows = 32, kTextDim = 128;
constexpr double kSparsity = 0.8;  // 4 of 18 tiles a row
constexpr double kMaxNorm = 1.0, kRate = 1e-4;

enum class Attention { kDense, kSparse };

std::shared_ptr<Network> tiny_network(Attention attention, Recompute recompute, bool trains) {
  static const std::string file =
      std::string(FASTWAN_SOURCE_DIR) + "/recipes/tiny-shapes/model/transformer/config.json";
  layout::WanDitConfig config = layout::read_wan_dit(read_json_file(file), file);
  config.is_gated = attention == Attention::kSparse;
  const auto model =
      std::make_shared<models::WanDit>(config, std::make_shared<ops::FullAttention>(),
                                       training::training_profile(at::kFloat), at::kCPU);
  training::fill_random(*model, 1);
  return std::make_shared<Network>(
      model, training::NetworkOptions{.is_trainable = trains, .recompute = recompute},
      distributed::one_process());
}

training::Role role_of(const std::shared_ptr<Network>& network, Attention attention) {
  return attention == Attention::kSparse ? training::sparse_role_of(network, ops::TopkRule::kPadded)
                                         : training::role_of(network);
}

training::MicroBatch tiny_batch() {
  return {.latents = at::randn({kBatch, 8, 8, 24, 24}),  // 8 x 12 x 12 tokens
          .text = at::randn({kBatch, kTextRows, kTextDim}),
          .slots = {0, 1, 2, 3}};
}

// The iterations of a method one after the other, as the trainer makes them.
class Steps {
 public:
  explicit Steps(std::unique_ptr<training::Method> method)
      : method_(std::move(method)), batch_(tiny_batch()) {
    keep_freed_memory();  // as the trainer does
    for (const auto& [name, trained] : method_->networks()) {
      optimizers_[name] =
          std::make_unique<training::AdamW>(*trained.units, training::AdamWOptions{});
    }
  }

  void iterate() {
    ++step_;
    for (const std::string& name : method_->updates(step_)) {
      training::Units& units = *method_->networks().at(name).units;
      method_->accumulate(name, step_, batch_, 1.0);
      training::clip_gradient(units, kMaxNorm, name);
      optimizers_.at(name)->step(kRate);
      units.zero_gradients();
    }
  }

 private:
  std::unique_ptr<training::Method> method_;
  training::MicroBatch batch_;
  std::map<std::string, std::unique_ptr<training::AdamW>> optimizers_;
  int64_t step_ = 0;
};

template <Attention kAttention, Recompute kRecompute>
Iteration finetune_step() {
  const auto steps = std::make_shared<Steps>(std::make_unique<training::Finetune>(
      role_of(tiny_network(kAttention, kRecompute, /*trains=*/true), kAttention),
      training::FinetuneOptions{.law = {.shift = 3}, .ramp = {.sparsity = kSparsity, .rate = 0}}));
  return [=] { steps->iterate(); };
}

// An iteration of the critic alone and one with the student's update. Simulate mode, the samples'
// steps dealt out evenly: each iteration's rollout takes two samples through the first step and one
// through the second, so all iterations are equally long.
template <Attention kAttention, Recompute kRecompute>
Iteration distill_steps() {
  using training::dmd::Distill;
  const auto dense = [](bool trains) {
    return role_of(tiny_network(Attention::kDense, kRecompute, trains), Attention::kDense);
  };
  const auto steps = std::make_shared<Steps>(std::make_unique<Distill>(
      training::dmd::DistillRoles{
          .student = role_of(tiny_network(kAttention, kRecompute, /*trains=*/true), kAttention),
          .critic = dense(/*trains=*/true),
          .teacher = dense(/*trains=*/false).velocity},
      training::dmd::DistillOptions{.rollout = training::dmd::Rollout::kSimulate,
                                    .steps = {.block = kBatch},
                                    .score = {.shift = 5},
                                    .guidance_scale = 3.5,
                                    .unconditional = at::randn({kTextRows, kTextDim}),
                                    .update_interval = 2,
                                    .ramp = {.sparsity = kSparsity, .rate = 0}}));
  return [=] {
    steps->iterate();
    steps->iterate();
  };
}

constexpr Case kCases[] = {
    {"finetune_step", finetune_step<Attention::kSparse, Recompute::kNone>},
    {"finetune_step_recompute", finetune_step<Attention::kSparse, Recompute::kFull>},
    {"finetune_step_dense", finetune_step<Attention::kDense, Recompute::kNone>},
    {"distill_step", distill_steps<Attention::kSparse, Recompute::kNone>},
    {"distill_step_recompute", distill_steps<Attention::kSparse, Recompute::kFull>},
    {"distill_step_dense", distill_steps<Attention::kDense, Recompute::kNone>}};

}  // namespace

std::span<const Case> training_cases() {
  return kCases;
}

}  // namespace fastwan::bench
