// For tests: the n-th call that changes the disk fails or is the process's last.
//
// The test binary defines write, fsync, rename and their kin itself, ahead of libc's: what the code
// under test calls is counted here and then made.
#pragma once

#include <cstdint>
#include <functional>

namespace fastwan::testing {

enum class Fault { kNone, kFail, kKill };

struct FaultPlan {
  Fault fault = Fault::kNone;
  int64_t call = 0;  // from 1
  int error = 0;     // errno of a failing call
};

// Runs `action` under the plan; returns how many calls it made that change the disk.
int64_t with_faults(const FaultPlan& plan, const std::function<void()>& action);

// The same in a child process that the plan may kill. Returns true when it was killed, false when
// it ended by itself (an exception in it ends it quietly).
bool is_killed_in_child(const FaultPlan& plan, const std::function<void()>& action);

}  // namespace fastwan::testing
