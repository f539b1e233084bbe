// Start values of networks that are trained from nothing. From stream init, keyed by a parameter's
// place among the sorted names: the same for every number of ranks. In place, in the parameters'
// dtype. models::ShapeFeatures brings its own.
#pragma once

#include <cstdint>

#include "models/parameters.h"
#include "models/umt5.h"
#include "models/wan_dit.h"
#include "models/wan_vae.h"

namespace fastwan::training {

// As diffusers builds the class: linear and patch weights and biases uniform in +-1/sqrt(inputs of
// an output), norms one, norm biases zero, modulation tables normal / sqrt(D); gates zero, so that
// sparse attention starts without its coarse term.
void fill_random(const models::WanDit& model, uint64_t seed);

// As diffusers builds the class: convolutions' weights and biases uniform in +-1/sqrt(inputs of an
// output), norms one.
void fill_random(const models::WanVae& model, uint64_t seed);

// As transformers starts it: embeddings of deviation 1; matrices normal of variance 1 / inputs, the
// queries' 1 / (inputs * d_kv), for scores are not divided by sqrt(d_kv); the table of relative
// positions 1 / d_model; norms one.
void fill_random(const models::Umt5& model, uint64_t seed);

// A layer's weight and bias, uniform in +-1/sqrt(inputs). `place` keys the numbers among the layers
// of one seed.
void fill_random(const models::Linear& layer, uint64_t seed, int64_t place);

}  // namespace fastwan::training
