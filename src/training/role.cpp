#include "training/role.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::training {

Role role_of(const std::shared_ptr<Network>& network) {
  return {.velocity = [network](
                          const at::Tensor& x, const at::Tensor& timestep,
                          const at::Tensor& text) { return network->velocity(x, timestep, text); },
          .units = network->units().is_trainable() ? &network->units() : nullptr,
          .set_sparsity = {}};
}

Role sparse_role_of(const std::shared_ptr<Network>& network, ops::TopkRule rule) {
  Role role = role_of(network);
  const bool is_gated = network->model().config().is_gated;
  role.set_sparsity = [network, rule, is_gated](double sparsity) {
    network->set_attention(std::make_shared<ops::VsaAttention>(
        ops::Sparsity{.value = sparsity, .rule = rule}, is_gated));
  };
  return role;
}

void ramp_sparsity(const Role& role, const SparsityRamp& ramp, int64_t step) {
  if (role.set_sparsity) {
    role.set_sparsity(ramped_sparsity(ramp, step - 1));
  }
}

void add_sparsity(Metrics& metrics, const Role& role, const SparsityRamp& ramp, int64_t step) {
  if (role.set_sparsity) {
    metrics["vsa_sparsity"] = ramped_sparsity(ramp, step - 1);
  }
}

void add_by_timestep(Metrics& metrics,
                     const std::string& name,
                     std::span<const double> values,
                     std::span<const double> timesteps) {
  std::array<double, kTimestepBuckets> sum{};
  std::array<int64_t, kTimestepBuckets> count{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double place = timesteps[i] * static_cast<double>(kTimestepBuckets) / 1000.0;
    const auto bucket = static_cast<std::size_t>(
        std::clamp<int64_t>(static_cast<int64_t>(place), 0, kTimestepBuckets - 1));
    sum[bucket] += values[i];
    ++count[bucket];
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    if (count[i] > 0) {
      metrics[str(name, i < 10 ? "/t_0" : "/t_", i)] = sum[i] / static_cast<double>(count[i]);
    }
  }
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::vector<double> to_vector(const at::Tensor& x) {
  const at::Tensor wide = x.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* const values = wide.const_data_ptr<double>();
  return {values, values + wide.numel()};
}

void check_finite(const SampleFault& fault,
                  std::span<const double> values,
                  std::span<const double> timesteps,
                  std::span<const int64_t> slots) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw Failure(Code::kNonFinite,
                    str("iteration ", fault.step, ": ", fault.what, " is ", values[i],
                        " for the sample of slot ", slots[i], " at timestep ", timesteps[i]));
    }
  }
}

void check_finite(const SampleFault& fault, double value) {
  if (!std::isfinite(value)) {
    throw Failure(Code::kNonFinite, str("iteration ", fault.step, ": ", fault.what, " is ", value));
  }
}

}  // namespace fastwan::training
