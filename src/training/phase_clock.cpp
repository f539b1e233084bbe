#include "training/phase_clock.h"

#include <utility>

#include <c10/core/impl/VirtualGuardImpl.h>

namespace fastwan::training {

void PhaseClock::enter(std::string phase) {
  Mark& mark = marks_.emplace_back();
  mark.phase = std::move(phase);
  mark.time = std::chrono::steady_clock::now();
  if (!device_.is_cpu()) {
    mark.event.emplace(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    mark.event->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }
}

Metrics PhaseClock::seconds() {
  enter("");
  if (marks_.back().event) {
    marks_.back().event->synchronize();
  }
  Metrics seconds;
  for (std::size_t i = 0; i + 1 < marks_.size(); ++i) {
    const Mark &from = marks_[i], &to = marks_[i + 1];
    seconds["seconds/" + from.phase] +=
        from.event ? from.event->elapsedTime(*to.event) / 1000.0
                   : std::chrono::duration<double>(to.time - from.time).count();
  }
  marks_.clear();
  return seconds;
}

}  // namespace fastwan::training
