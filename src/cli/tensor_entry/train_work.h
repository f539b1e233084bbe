// Operations of a training run's iterations and what the device promises: what MFU is made of.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "cli/tensor_entry/train_parts.h"

namespace fastwan::cli {

// Of iteration `step` (from 1), all ranks together: forwards and backwards at that step's sparsity.
// What recompute does a second time does not count (Korthikanti et al. 2022: model, not hardware,
// utilisation). `recipe` and `method`, which says who is updated, must outlive it.
std::function<double(int64_t step)> operations_of(const config::Recipe& recipe,
                                                  std::shared_ptr<const RoleNetworks> networks,
                                                  const TrainData& data,
                                                  const training::Method& method);

// Operations a second of all ranks together; nullopt on a CPU, in another compute type than bf16
// and on a GPU without a known rate. `gpu_rates` as config::TrainRun has them.
std::optional<double> peak_rate(const TrainContext& context, std::span<const double> gpu_rates);

}  // namespace fastwan::cli
