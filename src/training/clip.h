// The global norm of a network's gradient, and clipping by it.
#pragma once

#include <string>

#include "training/units.h"

namespace fastwan::training {

// sqrt(sum g^2) over all units and ranks; squares and sums in fp64, the same on all ranks. Padding
// takes no part.
double gradient_norm(const Units& units);

struct Clipped {
  double norm = 0;         // before clipping
  double coefficient = 1;  // what the gradient was multiplied with
};

// g *= min(1, max_norm / (norm + 1e-6)); max_norm 0 clips nothing. Failure non_finite where the
// norm is not finite, on all ranks alike, naming `network` and the first tensor of this rank with
// such an element; nothing has been changed then.
Clipped clip_gradient(Units& units, double max_norm, const std::string& network);

}  // namespace fastwan::training
