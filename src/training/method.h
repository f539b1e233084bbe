// What the trainer asks of a training method: which networks an iteration updates, and their
// gradients. A new method is a new class; the trainer stays as it is.
//
// Dims    b samples of a micro-batch, C T H W latent, L text rows, F P Q pixels
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/metrics_log.h"
#include "training/units.h"

namespace fastwan::training {

// One rank's share of an accumulation step, on the networks' device. Methods of pixels take the
// video, methods of latents the latents; what a method does not read may be undefined or empty.
struct MicroBatch {
  at::Tensor latents;                 // [b, C, T, H, W] fp32, normalised
  at::Tensor trajectory;              // [b, K + 1, C, T, H, W] fp32, normalised: K states, the end
  at::Tensor trajectory_timesteps;    // [b, K + 1], last 0
  at::Tensor text;                    // [b, L, text_dim] fp32, zero rows behind a prompt's end
  std::vector<int64_t> slots;         // [b] places in the global batch: keys of random numbers
  at::Tensor pixels;                  // [b, 3, F, P, Q] fp32 in [-1, 1]
  at::Tensor labels;                  // [b, 6] int64: a procedural clip's attributes
  std::vector<std::string> captions;  // [b]
};

// What the optimizer updates.
struct Trained {
  Units* units = nullptr;
};

// A network's velocity (noise - content) as a plain function, so that losses know neither WanDit
// nor the executor: x [B, C, T, H, W] (any [B, ...] of a toy), timestep [B] in 0..1000,
// text [B, L, text_dim] -> like x.
using Velocity = std::function<at::Tensor(
    const at::Tensor& x, const at::Tensor& timestep, const at::Tensor& text)>;

class Method {
 public:
  Method() = default;
  Method(const Method&) = delete;
  Method& operator=(const Method&) = delete;
  virtual ~Method() = default;

  // Names of the networks that iteration `step` (from 1) updates, in order. A function of the step
  // alone, so that all ranks agree and a resume needs nothing.
  virtual std::vector<std::string> updates(int64_t step) const = 0;

  // Adds `share` times the gradient of the micro-batch's mean loss to the network's units and
  // returns what is worth logging, as means over the micro-batch. Gradients of the other networks
  // stay as they are. Random numbers depend on (seed, step, slot).
  //
  // Failure non_finite, naming step, slot and noise level, is thrown when all of the micro-batch's
  // collectives are done, so that ranks without a fault do not wait; the gradient is then of no
  // use, and no rank may step.
  virtual Metrics accumulate(const std::string& network,
                             int64_t step,
                             const MicroBatch& batch,
                             double share) = 0;

  // Networks as iteration `step` left them in all that is not weights, such as a ramped sparsity:
  // for who looks at them after a resume.
  virtual void settle(int64_t /*step*/) {}

  // All networks that it trains.
  virtual std::map<std::string, Trained> networks() = 0;
};

}  // namespace fastwan::training
