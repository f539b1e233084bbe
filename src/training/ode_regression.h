// ODE regression: a few-step student learns from a teacher's own trajectories, before or instead of
// distribution matching (FastVideo's KD; the "ODE initialisation" of CausVid, Yin et al., "From
// slow bidirectional to fast autoregressive video diffusion models", 2025).
//
//   x_t, t   one of the K states of a sample's trajectory, drawn evenly for each step and slot
//   student  x^ = x_t - sigma G(x_t, t, c), sigma = t / 1000
//   loss     mean (x^ - x_end)^2, x_end the trajectory's end
//
// The end is a function of the start noise: unlike a score, the loss asks for every sample that the
// teacher makes, so the student keeps the spread of its samples.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/flow_matching.h"
#include "training/method.h"
#include "training/role.h"
#include "training/schedule.h"

namespace fastwan::training {

// One state of each row's trajectory and where it ends.
struct TrajectoryDraw {
  at::Tensor x;      // [b, C, T, H, W]: x_t
  at::Tensor sigma;  // [b]
  at::Tensor end;    // [b, C, T, H, W]: x_end
};
// Each of the first `num_states` states (0: all K) equally often: one draw of `key` a slot.
TrajectoryDraw draw_states(const MicroBatch& batch,
                           const DrawKey& key,
                           at::ScalarType type,
                           int64_t num_states = 0);

// [b]: the loss above; with gradient where grad mode is on.
at::Tensor regression_loss(const Velocity& student,
                           const TrajectoryDraw& drawn,
                           const at::Tensor& text);

struct OdeRegressionOptions {
  uint64_t seed = 1000;
  // Where the network sets sparsity; iteration k computes with ramped_sparsity(k - 1).
  SparsityRamp ramp{.sparsity = 0, .rate = 0};
  at::ScalarType state = at::kFloat;  // of states and losses; fp64 to check gradients
};

class OdeRegression final : public Method {
 public:
  static constexpr const char* kStudent = "student";

  OdeRegression(Role student, const OdeRegressionOptions& options);

  std::vector<std::string> updates(int64_t step) const override;
  // Metrics  train_loss, train_loss/t_00..t_11, ode_timestep, vsa_sparsity
  Metrics accumulate(const std::string& network,
                     int64_t step,
                     const MicroBatch& batch,
                     double share) override;
  void settle(int64_t step) override;
  std::map<std::string, Trained> networks() override;

 private:
  OdeRegressionOptions options_;
  Role student_;
};

}  // namespace fastwan::training
