// Flow-matching finetuning of one network or of two experts, dense or with a ramp of sparsity.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "training/flow_matching.h"
#include "training/method.h"
#include "training/role.h"
#include "training/schedule.h"

namespace fastwan::training {

enum class FlowTarget { kVelocity, kContent };  // flow_loss, preconditioned_loss

struct FinetuneOptions {
  uint64_t seed = 1000;
  TimestepLaw law;
  FlowTarget target = FlowTarget::kVelocity;
  double caption_dropout = 0;
  at::Tensor unconditional;  // [L, text_dim] of the text that sampling takes as unconditional
  // Where the network sets sparsity; iteration k computes with ramped_sparsity(k - 1).
  SparsityRamp ramp{.sparsity = 0, .rate = 0};
  double boundary = 0;                // two experts: share of iterations of the low-noise one
  at::ScalarType state = at::kFloat;  // of noised latents and losses; fp64 to check gradients
};

class Finetune final : public Method {
 public:
  static constexpr const char* kStudent = "student";
  static constexpr const char* kLowNoise = "student_2";

  // InvalidInput bad_config: dropout without an unconditional text, a boundary without a second
  // expert or the other way round.
  Finetune(Role student, FinetuneOptions options, std::optional<Role> low_noise = {});

  std::vector<std::string> updates(int64_t step) const override;
  // Metrics  train_loss, train_loss/t_00..t_11, flow_timestep, vsa_sparsity
  Metrics accumulate(const std::string& network,
                     int64_t step,
                     const MicroBatch& batch,
                     double share) override;
  void settle(int64_t step) override;
  std::map<std::string, Trained> networks() override;

 private:
  FinetuneOptions options_;
  Role student_;
  std::optional<Role> low_noise_;
};

}  // namespace fastwan::training
