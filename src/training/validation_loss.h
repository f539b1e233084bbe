// How well a network predicts rows that it does not train on: flow matching's loss over fixed rows,
// noises and noise levels, a number that moves only where the weights do.
//
//   L       = 1/n sum_j mean over a sample of (v(x_j, 1000 sigma_j, c_j) - (eps_j - x0_j))^2
//   x_j     = (1 - sigma_j) x0_j + sigma_j eps_j                            j = 0 .. n-1
//   sigma_j = (j + 1/2) / n: the middles of n equal parts of (0, 1)
//   eps_j   = Philox(seed 0, Stream::kValidation, step 0, slot j)
//   x0_j    the source's row perm[j], with perm the loader's order of epoch 0 under seed 0
//   c_j     its text
//
// Nothing of a recipe enters but its rows and their number (no seed, density, shift, grid, dropout
// of captions, target of the loss): runs compare. train_loss is a mean under the recipe's density,
// L under the uniform one; their means by twelfths of the timestep, `.../t_00` to `.../t_11`, are
// of the same thing where the recipe's target is the velocity and no caption drops out.
//
// Nothing that trains is touched: no generator has state, and the rows have a loader of their own.
//
// Dims    latents and eps [b, C, T, H, W], timestep [b], text [b, L, text_dim]
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "data/loader.h"
#include "data/source.h"
#include "training/method.h"

namespace fastwan::training {

struct ValidationLossOptions {
  int64_t rows = 24;  // n, or all of the source where it has fewer
  int64_t batch = 1;  // a forward takes the largest divisor of n that is not above it
  int64_t text_rows = 512;
  int64_t latent_frames = 0;          // the first so many of each row; 0: all
  at::ScalarType state = at::kFloat;  // of noised latents and losses; fp64 where networks are
};

class ValidationLoss {
 public:
  using Prepare = std::function<MicroBatch(const data::Batch&)>;

  // Reads all n rows once, so that a bad one is told before the first step; what `prepare` throws,
  // and InvalidInput bad_dataset for rows without latents. Rows are read again for each loss: those
  // of a large model would hold a gigabyte.
  ValidationLoss(std::shared_ptr<const data::Source> source,
                 const ValidationLossOptions& options,
                 Prepare prepare);

  int64_t rows() const { return rows_; }

  // Without gradient. Stopped between forwards.
  //
  // Metrics  validation_loss, validation_loss/t_00..t_11
  Metrics of(const Velocity& velocity, const Watch& watch);

 private:
  MicroBatch next();

  int64_t rows_, batch_;
  at::ScalarType state_;
  data::Loader loader_;
  Prepare prepare_;
};

}  // namespace fastwan::training
