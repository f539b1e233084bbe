// Lines of a training run on stderr: step, loss, gradient norm, seconds a step, time left, rates.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>

#include "config/train_run.h"

namespace fastwan::cli {

// "step 120/4000  loss 0.2765  grad_norm 1.118  0.70 s/step  45 min left". `seconds_a_step`:
// measured by the caller.
std::string progress_line(const config::TrainProgress& now, std::optional<double> seconds_a_step);

class TrainProgressPrinter {
 public:
  // auto and log: a line at most every second (auto on a terminal) or five; json: a line an update;
  // none. InvalidInput bad_value for other words.
  explicit TrainProgressPrinter(const std::string& style);
  void update(const config::TrainProgress& now);
  void say(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  enum class Style { kLines, kJson, kNone };

  Style style_ = Style::kLines;
  double interval_ = 5;  // seconds
  std::mutex mutex_;
  std::optional<int64_t> first_step_;
  Clock::time_point first_{}, last_line_{};
};

}  // namespace fastwan::cli
