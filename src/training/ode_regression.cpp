#include "training/ode_regression.h"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "training/dmd/dmd.h"

namespace fastwan::training {

TrajectoryDraw draw_states(const MicroBatch& batch,
                           const DrawKey& key,
                           at::ScalarType type,
                           int64_t num_states) {
  invariant(batch.trajectory.defined(), "ODE regression reads trajectories");
  const int64_t end = batch.trajectory.size(1) - 1;
  invariant(0 <= num_states && num_states <= end, "a trajectory has that many states");
  const std::vector<int64_t> states =
      dmd::draw_steps({.num_steps = num_states > 0 ? num_states : end}, key, batch.slots);
  const at::Tensor all_timesteps = batch.trajectory_timesteps.cpu();  // [b, K + 1]
  std::vector<at::Tensor> drawn;                                      // [C, T, H, W] each
  std::vector<double> levels;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    drawn.push_back(batch.trajectory[row][states[i]]);
    levels.push_back(all_timesteps[row][states[i]].item<double>() / 1000.0);
  }
  return {.x = at::stack(drawn).to(type),                    // [b, C, T, H, W]
          .sigma = as_sigma(levels),                         // [b]
          .end = batch.trajectory.select(1, end).to(type)};  // [b, C, T, H, W]
}

at::Tensor regression_loss(const Velocity& student,
                           const TrajectoryDraw& drawn,
                           const at::Tensor& text) {
  const at::Tensor velocity = student(drawn.x, timestep_of(drawn.sigma, drawn.x), text);
  return preconditioned_loss(velocity, drawn.x, drawn.end, drawn.sigma);
}

OdeRegression::OdeRegression(Role student, const OdeRegressionOptions& options)
    : options_(options), student_(std::move(student)) {
  OdeRegression::settle(1);
}

std::vector<std::string> OdeRegression::updates(int64_t) const {
  return {kStudent};
}

Metrics OdeRegression::accumulate(const std::string&,
                                  int64_t step,
                                  const MicroBatch& batch,
                                  double share) {
  settle(step);
  const TrajectoryDraw drawn =
      draw_states(batch, {.seed = options_.seed, .stream = Stream::kStudentRollout, .step = step},
                  options_.state);

  const c10::AutoGradMode with_gradient(true);
  const at::Tensor loss = regression_loss(student_.velocity, drawn, batch.text);  // [b]
  (loss.mean() * share).backward();

  const std::vector<double> losses = to_vector(loss), timesteps = to_vector(1000.0 * drawn.sigma);
  check_finite({.what = "the loss of ODE regression", .step = step}, losses, timesteps,
               batch.slots);
  Metrics metrics{{"train_loss", mean_of(losses)}, {"ode_timestep", mean_of(timesteps)}};
  add_by_timestep(metrics, "train_loss", losses, timesteps);
  add_sparsity(metrics, student_, options_.ramp, step);
  return metrics;
}

void OdeRegression::settle(int64_t step) {
  ramp_sparsity(student_, options_.ramp, step);
}

std::map<std::string, Trained> OdeRegression::networks() {
  return {{kStudent, {.units = student_.units}}};
}

}  // namespace fastwan::training
