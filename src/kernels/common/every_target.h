// For tests: the instruction sets that this machine has and this binary was built for.
#pragma once

#include <hwy/highway.h>
#include <hwy/targets.h>

namespace fastwan::kernels::testing {

// Calls `body(name)` with each instruction set chosen in turn, then restores the best one.
template <class Body>
void on_every_target(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace fastwan::kernels::testing
