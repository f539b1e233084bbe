// Ctrl-C, SIGTERM and a closed terminal as a stop request: the run ends at its next step.
#pragma once

#include <atomic>
#include <initializer_list>
#include <stop_token>
#include <thread>
#include <vector>

namespace fastwan::cli {

// Blocks SIGINT, SIGTERM and SIGHUP (unless it is ignored) in this and all later threads and waits
// for them in a thread of its own. The first asks to stop; the second ends the process at once with
// status 130.
class StopOnSignal {
 public:
  StopOnSignal() : StopOnSignal({}) {}
  // Of the signals in `also`, too.
  explicit StopOnSignal(std::initializer_list<int> also);
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  std::stop_token token() const { return source_.get_token(); }
  // The signal that asked to stop; 0: none.
  int first() const { return first_; }

 private:
  std::vector<int> signals_;
  std::atomic<int> first_ = 0;
  std::stop_source source_;
  std::jthread waiter_;
};

}  // namespace fastwan::cli
