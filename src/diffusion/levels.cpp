#include "diffusion/levels.h"

#include <array>
#include <cmath>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::diffusion {
namespace {

constexpr int kTrainTimesteps = 1000;

void refuse_bad_schedule(int64_t steps, double shift) {
  if (steps < 1) {
    throw InvalidInput(Code::kBadValue, str("the number of steps must be at least 1, got ", steps));
  }
  if (!(shift > 0.0) || !std::isfinite(shift)) {
    throw InvalidInput(Code::kBadValue,
                       str("flow shift must be a number above 0, got ", format_number(shift)));
  }
}

// Moves noise levels towards 1; the type is that of the reference's arithmetic.
template <class Real>
Real shifted(Real sigma, Real shift) {
  return shift * sigma / (1 + (shift - 1) * sigma);
}

// FlowMatchEuler's training table, noisiest first, all in fp32.
std::array<float, kTrainTimesteps> shifted_table(double shift) {
  std::array<float, kTrainTimesteps> table{};
  for (int i = 0; i < kTrainTimesteps; ++i) {
    const auto timestep = static_cast<float>(kTrainTimesteps - i);
    // shift - 1 is a double in the reference, rounded when it meets the fp32 table.
    const float share = timestep / static_cast<float>(kTrainTimesteps);
    const float denominator = 1.0F + static_cast<float>(shift - 1.0) * share;
    table[static_cast<std::size_t>(i)] = static_cast<float>(shift) * share / denominator;
  }
  return table;
}

double nearest_sigma(const std::array<float, kTrainTimesteps>& table, int64_t timestep) {
  const auto wanted = static_cast<double>(timestep);
  double best = table[0], best_distance = HUGE_VAL;
  for (const float sigma : table) {
    const float entry = sigma * static_cast<float>(kTrainTimesteps);  // fp32, as it is stored
    const double distance = std::abs(static_cast<double>(entry) - wanted);
    if (distance < best_distance) {
      best = sigma;
      best_distance = distance;
    }
  }
  return best;
}

std::string list_of(const std::vector<int64_t>& values) {
  std::string text;
  for (const int64_t value : values) {
    text += str(text.empty() ? "" : ",", value);
  }
  return text.empty() ? "nothing" : text;
}

void refuse_bad_timesteps(const std::vector<int64_t>& timesteps) {
  bool is_good = !timesteps.empty();
  int64_t above = kTrainTimesteps + 1;
  for (const int64_t timestep : timesteps) {
    is_good = is_good && timestep >= 1 && timestep < above;
    above = timestep;
  }
  if (!is_good) {
    throw InvalidInput(Code::kBadValue,
                       str("--dmd-denoising-steps must be whole numbers that fall, each from 1 to ",
                           kTrainTimesteps, ", such as 1000,757,522; got ", list_of(timesteps)));
  }
}

// `steps` even levels from `first` towards `last`, without `last`, as NumPy's linspace makes them.
std::vector<double> levels_towards(double last, double first, int64_t steps) {
  const double stride = (last - first) / static_cast<double>(steps);
  std::vector<double> out;
  for (int64_t i = 0; i < steps; ++i) {
    out.push_back(static_cast<double>(i) * stride + first);
  }
  return out;
}

std::vector<double> unipc_sigmas(int64_t steps, double shift, SigmaSchedule schedule) {
  constexpr auto kNoisiest = static_cast<float>(1.0 - 1.0 / kTrainTimesteps);
  switch (schedule) {
    case SigmaSchedule::kDiffusers:
      return levels_towards(1.0 / kTrainTimesteps, 1.0, steps);
    case SigmaSchedule::kFastVideo:  // its maximum went through the shift once already
      return levels_towards(0.0, shifted(kNoisiest, static_cast<float>(shift)), steps);
    case SigmaSchedule::kWan:
      return levels_towards(0.0, kNoisiest, steps);
  }
  invariant(false, "every schedule is listed");
  return {};
}

// level(table, timestep) of each.
template <class Level>
std::vector<NoiseLevel> levels_of(const std::vector<int64_t>& timesteps,
                                  double shift,
                                  const Level& level) {
  refuse_bad_timesteps(timesteps);
  refuse_bad_schedule(static_cast<int64_t>(timesteps.size()), shift);
  const std::array<float, kTrainTimesteps> table = shifted_table(shift);
  std::vector<NoiseLevel> levels;
  for (const int64_t timestep : timesteps) {
    levels.push_back(level(table, timestep));
  }
  return levels;
}

}  // namespace

std::vector<NoiseLevel> few_step_levels(const std::vector<int64_t>& timesteps, double shift) {
  return levels_of(timesteps, shift, [](const auto& table, int64_t timestep) {
    return NoiseLevel{.timestep = static_cast<double>(timestep),
                      .sigma = nearest_sigma(table, timestep)};
  });
}

std::vector<NoiseLevel> warped_few_step_levels(const std::vector<int64_t>& timesteps,
                                               double shift) {
  return levels_of(timesteps, shift, [](const auto& table, int64_t timestep) {
    const float sigma = table[static_cast<std::size_t>(kTrainTimesteps - timestep)];
    return NoiseLevel{.timestep = sigma * static_cast<float>(kTrainTimesteps), .sigma = sigma};
  });
}

std::vector<NoiseLevel> student_levels(const std::vector<int64_t>& timesteps,
                                       double shift,
                                       bool is_warped) {
  return is_warped ? warped_few_step_levels(timesteps, shift) : few_step_levels(timesteps, shift);
}

std::vector<NoiseLevel> unipc_levels(int64_t steps, double shift, SigmaSchedule schedule) {
  constexpr double kBelowOne = 1e-6;  // log(1 - sigma) must be finite
  refuse_bad_schedule(steps, shift);
  std::vector<NoiseLevel> levels;
  for (const double unshifted : unipc_sigmas(steps, shift, schedule)) {
    double sigma = shifted(unshifted, shift);
    if (schedule == SigmaSchedule::kDiffusers && levels.empty() &&
        std::abs(sigma - 1.0) < kBelowOne) {
      sigma -= kBelowOne;
    }
    levels.push_back(
        {.timestep = std::trunc(sigma * kTrainTimesteps), .sigma = static_cast<float>(sigma)});
  }
  return levels;
}

std::vector<NoiseLevel> euler_levels(int64_t steps, double shift) {
  refuse_bad_schedule(steps, shift);
  const std::array<float, kTrainTimesteps> table = shifted_table(shift);
  const double first = static_cast<double>(table.front()) * kTrainTimesteps;
  const double last = static_cast<double>(table.back()) * kTrainTimesteps;
  std::vector<NoiseLevel> levels;
  for (int64_t i = 0; i < steps; ++i) {
    const double stride = steps > 1 ? (last - first) / static_cast<double>(steps - 1) : 0.0;
    const bool is_last = steps > 1 && i == steps - 1;  // exactly, as linspace promises
    const double timestep = is_last ? last : static_cast<double>(i) * stride + first;
    // The table is shifted, and shifted again: the reference does so.
    const auto sigma = static_cast<float>(shifted(timestep / kTrainTimesteps, shift));
    levels.push_back({.timestep = sigma * static_cast<float>(kTrainTimesteps), .sigma = sigma});
  }
  return levels;
}

}  // namespace fastwan::diffusion
