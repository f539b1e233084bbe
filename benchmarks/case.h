// What fastwan-bench serves.
#pragma once

#include <functional>
#include <span>

namespace fastwan::bench {

using Iteration = std::function<void()>;

struct Case {
  const char* name;
  Iteration (*set_up)();
};

// Training steps of the tiny model of recipes/tiny-shapes.
std::span<const Case> training_cases();

}  // namespace fastwan::bench
