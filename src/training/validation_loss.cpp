#include "training/validation_loss.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <c10/core/GradMode.h>

#include "base/check.h"
#include "diffusion/sample_noise.h"
#include "training/flow_matching.h"
#include "training/role.h"

namespace fastwan::training {
namespace {

int64_t largest_divisor(int64_t n, int64_t limit) {
  int64_t divisor = std::clamp<int64_t>(limit, 1, n);
  while (n % divisor != 0) {
    --divisor;
  }
  return divisor;
}

}  // namespace

ValidationLoss::ValidationLoss(std::shared_ptr<const data::Source> source,
                               const ValidationLossOptions& options,
                               Prepare prepare)
    : rows_(std::min(options.rows, source->size())),
      batch_(largest_divisor(rows_, options.batch)),
      state_(options.state),
      loader_(std::move(source),
              {.seed = 0,
               .global_batch = rows_,
               .micro_batches = rows_ / batch_,
               .text_rows = options.text_rows,
               .latent_frames = options.latent_frames,
               .prefetch = 0}),
      prepare_(std::move(prepare)) {
  for (int64_t done = 0; done < rows_; done += batch_) {
    next();
  }
}

MicroBatch ValidationLoss::next() {
  MicroBatch batch = prepare_(loader_.next());
  if (!batch.latents.defined()) {
    throw InvalidInput(Code::kBadDataset,
                       "callbacks.validation.data_path: its rows hold texts alone, a loss needs "
                       "their latents");
  }
  return batch;
}

Metrics ValidationLoss::of(const Velocity& velocity, const Watch& watch) {
  const c10::NoGradGuard no_gradients;
  loader_.seek(0);
  std::vector<double> losses, timesteps;
  while (static_cast<int64_t>(losses.size()) < rows_) {
    watch.throw_if_stopped();
    const MicroBatch batch = next();
    std::vector<double> levels;
    for (const int64_t slot : batch.slots) {
      levels.push_back((static_cast<double>(slot) + 0.5) / static_cast<double>(rows_));
      timesteps.push_back(1000.0 * levels.back());
    }
    const at::Tensor sigma = as_sigma(levels);       // [b]
    const at::Tensor x0 = batch.latents.to(state_);  // [b, C, T, H, W]
    const at::Tensor noise =
        diffusion::noise_like(x0, {.seed = 0, .stream = Stream::kValidation}, batch.slots);
    const at::Tensor x = noised(x0, noise, sigma);
    const at::Tensor predicted = velocity(x, timestep_of(sigma, x), batch.text);
    for (const double loss : to_vector(flow_loss(predicted, x0, noise))) {
      losses.push_back(loss);
    }
  }
  Metrics metrics{{"validation_loss", mean_of(losses)}};
  add_by_timestep(metrics, "validation_loss", losses, timesteps);
  return metrics;
}

}  // namespace fastwan::training
