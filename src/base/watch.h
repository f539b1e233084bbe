// What a long run tells its caller, and how the caller stops it.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

#include "base/check.h"

namespace fastwan {

struct Progress {
  std::string stage;  // load, text, denoise, decode, encode
  int64_t step = 0;   // 1-based, of this stage
  int64_t total = 0;
};

struct Watch {
  std::stop_token stop;
  std::function<void(const Progress&)> on_progress;

  void report(const char* stage, int64_t step, int64_t total) const {
    if (on_progress) {
      on_progress(Progress{stage, step, total});
    }
  }
  // Between steps and chunks: the one place where a run ends early.
  void throw_if_stopped() const {
    if (stop.stop_requested()) {
      throw Stopped();
    }
  }
};

}  // namespace fastwan
