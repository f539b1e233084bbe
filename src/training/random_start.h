// Start values of a WanDit that is trained from nothing.
#pragma once

#include <cstdint>

#include "models/wan_dit.h"

namespace fastwan::training {

// As diffusers builds the class: linear and patch weights and biases uniform in +-1/sqrt(inputs of
// an output), norms one, norm biases zero, modulation tables normal / sqrt(D); gates zero, so that
// sparse attention starts without its coarse term. From stream init, keyed by the parameter's place
// among the sorted names: the same for every number of ranks. In place, in the parameters' dtype.
void fill_random(const models::WanDit& model, uint64_t seed);

}  // namespace fastwan::training
