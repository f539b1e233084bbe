// A trace of some iterations, operation by operation and kernel by kernel, as JSON that
// chrome://tracing and https://ui.perfetto.dev show.
#pragma once

#include <cstdint>
#include <string>

#include "base/files.h"

namespace fastwan::training {

// Recorded are `steps` iterations of this process, after `skipped` that warm up caches, allocators
// and the choice of algorithms.
struct ProfileOptions {
  Path file;              // empty: none is recorded
  bool with_gpu = false;  // its kernels too
  int64_t skipped = 10;
  int64_t steps = 3;
};

class StepProfile {
 public:
  // `left`: iterations that this process has to do. Where they are fewer than `skipped` + `steps`,
  // the last `steps` of them are recorded.
  StepProfile(ProfileOptions options, int64_t left);
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  // What the user should know before the first iteration; empty: all is as asked.
  std::string warning() const;
  // Around each iteration of the process; no other follows one that is_last, so what there is goes
  // into the file. Returns what was written, or why nothing will be; empty: neither yet. IoError
  // write_failed where it cannot be.
  void before_step();
  std::string after_step(bool is_last);

 private:
  void save();

  ProfileOptions options_;
  int64_t left_ = 0;
  bool is_shortened_ = false;
  int64_t done_ = 0;  // iterations of this process
  bool is_recording_ = false;
};

}  // namespace fastwan::training
