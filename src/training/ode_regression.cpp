#include "training/ode_regression.h"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "training/dmd/dmd.h"
#include "training/flow_matching.h"

namespace fastwan::training {

OdeRegression::OdeRegression(Role student, const OdeRegressionOptions& options)
    : options_(options), student_(std::move(student)) {
  ramp_sparsity(student_, options_.ramp, 1);
}

std::vector<std::string> OdeRegression::updates(int64_t) const {
  return {kStudent};
}

Metrics OdeRegression::accumulate(const std::string&,
                                  int64_t step,
                                  const MicroBatch& batch,
                                  double share) {
  invariant(batch.trajectory.defined(), "ODE regression reads trajectories");
  ramp_sparsity(student_, options_.ramp, step);

  const int64_t end = batch.trajectory.size(1) - 1;
  const std::vector<int64_t> states = dmd::draw_steps(
      {.num_steps = end}, {.seed = options_.seed, .stream = Stream::kStudentRollout, .step = step},
      batch.slots);
  const at::Tensor all_timesteps = batch.trajectory_timesteps.cpu();  // [b, K + 1]
  std::vector<at::Tensor> drawn;                                      // [C, T, H, W] each
  std::vector<double> levels;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    drawn.push_back(batch.trajectory[row][states[i]]);
    levels.push_back(all_timesteps[row][states[i]].item<double>() / 1000.0);
  }
  const at::Tensor sigma = as_sigma(levels);                                    // [b]
  const at::Tensor x = at::stack(drawn).to(options_.state);                     // [b, C, T, H, W]
  const at::Tensor x_end = batch.trajectory.select(1, end).to(options_.state);  // [b, C, T, H, W]

  const c10::AutoGradMode with_gradient(true);
  const at::Tensor velocity = student_.velocity(x, timestep_of(sigma, x), batch.text);
  const at::Tensor loss = preconditioned_loss(velocity, x, x_end, sigma);  // [b]
  (loss.mean() * share).backward();

  const std::vector<double> losses = to_vector(loss), timesteps = to_vector(1000.0 * sigma);
  check_finite({.what = "the loss of ODE regression", .step = step}, losses, timesteps,
               batch.slots);
  Metrics metrics{{"train_loss", mean_of(losses)}, {"ode_timestep", mean_of(timesteps)}};
  add_by_timestep(metrics, "train_loss", losses, timesteps);
  add_sparsity(metrics, student_, options_.ramp, step);
  return metrics;
}

std::map<std::string, Trained> OdeRegression::networks() {
  return {{kStudent, {.units = student_.units}}};
}

}  // namespace fastwan::training
