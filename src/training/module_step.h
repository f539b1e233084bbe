// Gradients of modules that are no chain of blocks: everything gathered for the whole step.
#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

#include "training/units.h"

namespace fastwan::training {

// Calls `loss` in grad mode while all parameters are present and adds `share` times the gradient of
// its scalar to the units. Returns the loss, detached.
at::Tensor add_gradient(Units& units, double share, const std::function<at::Tensor()>& loss);

}  // namespace fastwan::training
