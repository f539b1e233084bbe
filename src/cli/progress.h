// What a person sees while a video is made: a bar on a terminal, plain lines elsewhere, JSON lines
// on request.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "base/watch.h"

namespace fastwan::cli {

enum class ProgressStyle { kAuto, kBar, kLog, kJson, kNone };

class ProgressPrinter {
 public:
  explicit ProgressPrinter(ProgressStyle style);
  ~ProgressPrinter();
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  // `job` of `jobs`, from 1; shown when there are several.
  void begin_job(int64_t job, int64_t jobs, const std::string& title);
  void update(const Progress& progress);
  void end_job();
  // A line of text that must not mix with the bar.
  void say(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool force);
  void clear_bar();
  double fraction() const;

  ProgressStyle style_;
  std::mutex mutex_;
  std::string title_;
  int64_t job_ = 1, jobs_ = 1;
  Progress now_;
  Clock::time_point job_start_{}, stage_start_{}, last_draw_{};
  bool bar_is_shown_ = false;
};

}  // namespace fastwan::cli
