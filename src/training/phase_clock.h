// Seconds of the phases of an update, on the device that does the work: a GPU's by its own events,
// so that nothing waits until the seconds are asked for.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include "training/method.h"

namespace fastwan::training {

class PhaseClock {
 public:
  explicit PhaseClock(at::Device device) : device_(device) {}

  // Work that is issued from now on belongs to `phase`.
  void enter(std::string phase);
  // "seconds/<phase>" of each phase. Ends the last one and waits for it.
  Metrics seconds();

 private:
  struct Mark {
    std::string phase;
    std::chrono::steady_clock::time_point time;
    std::optional<c10::Event> event;  // on a GPU
  };

  at::Device device_;
  std::vector<Mark> marks_;
};

}  // namespace fastwan::training
