// Seconds spent in each stage of a run.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace fastwan::pipelines {

class StageClock {
 public:
  // Time from now on belongs to `stage`.
  void enter(std::string stage) {
    close();
    before_ = now_;
    now_ = std::move(stage);
  }
  void go_back() { enter(before_); }

  // Stages in the order they were first entered.
  std::vector<std::pair<std::string, double>> seconds() {
    close();
    return seconds_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void close() {
    const Clock::time_point time = Clock::now();
    const double passed = std::chrono::duration<double>(time - since_).count();
    since_ = time;
    if (now_.empty()) {
      return;
    }
    const auto found = std::find_if(seconds_.begin(), seconds_.end(),
                                    [this](const auto& entry) { return entry.first == now_; });
    if (found == seconds_.end()) {
      seconds_.emplace_back(now_, passed);
    } else {
      found->second += passed;
    }
  }

  std::string now_, before_;
  Clock::time_point since_ = Clock::now();
  std::vector<std::pair<std::string, double>> seconds_;
};

}  // namespace fastwan::pipelines
