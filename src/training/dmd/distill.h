// Sparse distillation as a training method: student and critic take turns against a frozen teacher.
//
// An iteration updates the student where it is its turn, then always the critic, which samples from
// the student as it is then. Beside the distributions' difference the student's loss may hold the
// regression of ode_regression.h, as in DMD's first form (Yin et al., "One-step diffusion with
// distribution matching distillation", 2024): it keeps what the difference alone lets collapse.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/dmd/dmd.h"
#include "training/method.h"
#include "training/role.h"
#include "training/schedule.h"

namespace fastwan::training::dmd {

enum class Rollout {
  kData,      // the student's input is noised content
  kSimulate,  // its own earlier steps, from pure noise
};

enum class NonFinite {
  kStop,
  kZero,  // as FastVideo: such elements of g count as 0
};

struct DistillOptions {
  uint64_t seed = 1000;
  std::vector<double> timesteps = {1000, 757, 522};  // falling
  Rollout rollout = Rollout::kData;
  StepLaw steps;  // num_steps is the list's length whatever it says; data mode: one draw a slot
                  // unless there are blocks
  ScoreLaw score;
  double guidance_scale = 4.5;
  GuidanceInterval guidance_interval = {};
  bool joins_guidance = true;
  at::Tensor unconditional;                     // [L, text_dim]
  int64_t update_interval = 5;                  // iterations from one student update to the next
  int64_t critic_warmup = 0;                    // first iterations without one
  SparsityRamp ramp{.sparsity = 0, .rate = 0};  // of the student, where it sets sparsity
  NonFinite non_finite = NonFinite::kStop;
  double regression_weight = 0;       // above 0: batches hold trajectories
  int64_t regression_steps = 0;       // the first so many timesteps are regressed; 0: all
  std::vector<int64_t> latent_shape;  // [C, T, H, W]; where batches are text alone
  bool keeps_preview = false;
  at::ScalarType state = at::kFloat;  // of samples, scores and losses; fp64 to check gradients
};

struct DistillRoles {
  Role student, critic;
  Velocity teacher;
};

class Distill final : public Method {
 public:
  static constexpr const char* kStudent = "student";
  static constexpr const char* kCritic = "critic";

  // InvalidInput bad_config: a list that does not fall within (0, 1000], guidance without an
  // unconditional text.
  Distill(DistillRoles roles, DistillOptions options);

  std::vector<std::string> updates(int64_t step) const override;

  // Metrics of the student  train_generator_loss (1/2 mean g^2), generator_timestep, dmd_timestep,
  //   dmd_distance (d), dmd_gradient_norm and dmd_gradient_norm/t_00..t_11 (root mean square of g),
  //   dmd_cosine (between x_F - x^ and x_R - x^), dmd_non_finite, vsa_sparsity,
  //   train_regression_loss and regression_timestep where it is weighed in
  // of the critic  train_fake_score_loss and train_fake_score_loss/t_00..t_11, fake_score_timestep
  Metrics accumulate(const std::string& network,
                     int64_t step,
                     const MicroBatch& batch,
                     double share) override;
  void settle(int64_t step) override;
  std::map<std::string, Trained> networks() override;

  // Of the last student update, where it is kept; normalised latents.
  struct Preview {
    at::Tensor sample, noisy, x_fake, x_real;  // [b, C, T, H, W]
  };
  const Preview& preview() const { return preview_; }

 private:
  Metrics update_student(int64_t step, const MicroBatch& batch, double share);
  Metrics regress(int64_t step, const MicroBatch& batch, double share);
  Metrics update_critic(int64_t step, const MicroBatch& batch, double share);
  StudentInput student_input(const SampleKey& key, const MicroBatch& batch) const;
  at::Tensor like(const MicroBatch& batch) const;

  DistillRoles roles_;
  DistillOptions options_;
  Preview preview_;
};

}  // namespace fastwan::training::dmd
