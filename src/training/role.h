// A network in its part of a method, and what methods share.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "ops/attention.h"
#include "training/method.h"
#include "training/network.h"
#include "training/schedule.h"

namespace fastwan::training {

struct Role {
  Velocity velocity;       // with gradient where grad mode is on
  Units* units = nullptr;  // null: it does not train
  // Sparsity of later calls; empty: the network's attention stays as it is.
  std::function<void(double sparsity)> set_sparsity;
};
// The network with the attention that it has.
Role role_of(const std::shared_ptr<Network>& network);
// With Video Sparse Attention, gated where the model has gates.
Role sparse_role_of(const std::shared_ptr<Network>& network, ops::TopkRule rule);

// Iteration `step`, from 1, computes with ramped_sparsity(step - 1), where the network sets
// sparsity. A method asks for iteration 1 when it is made: a validation may come before it.
void ramp_sparsity(const Role& role, const SparsityRamp& ramp, int64_t step);
// What it computed with, as "vsa_sparsity"; nothing where the network does not set it.
void add_sparsity(Metrics& metrics, const Role& role, const SparsityRamp& ramp, int64_t step);

// Adds means to `metrics` under "<name>/t_00" ... "<name>/t_11": over the
// samples whose timestep falls into a twelfth of 0..1000; twelfths without a sample are left out.
inline constexpr int64_t kTimestepBuckets = 12;
void add_by_timestep(Metrics& metrics,
                     const std::string& name,
                     std::span<const double> values,
                     std::span<const double> timesteps);
double mean_of(std::span<const double> values);
std::vector<double> to_vector(const at::Tensor& x);  // flat, fp64; waits for the device

struct SampleFault {
  const char* what;  // "loss", "gradient of the score difference"
  int64_t step;
};
// Failure non_finite naming the first sample whose value is not finite.
void check_finite(const SampleFault& fault,
                  std::span<const double> values,
                  std::span<const double> timesteps,
                  std::span<const int64_t> slots);

// The same of a loss that has no samples.
void check_finite(const SampleFault& fault, double value);

}  // namespace fastwan::training
