// A trace of some iterations, operation by operation and kernel by kernel, as JSON that
// chrome://tracing and https://ui.perfetto.dev show.
#pragma once

#include <cstdint>

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
  explicit StepProfile(ProfileOptions options) : options_(std::move(options)) {}
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  // Around each iteration of the process. after_step() returns whether the file was written just
  // now. IoError write_failed where it cannot be.
  void before_step();
  bool after_step();

 private:
  ProfileOptions options_;
  int64_t done_ = 0;  // iterations of this process
  bool is_recording_ = false;
};

}  // namespace fastwan::training
