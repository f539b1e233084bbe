#include "training/phase_clock.h"

#include <chrono>
#include <thread>

#include <gtest/gtest.h>

namespace fastwan::training {
namespace {

TEST(PhaseClock, PhasesShareTheWholeTimeAndAddUpWhereTheyComeBack) {
  const auto begin = std::chrono::steady_clock::now();
  PhaseClock clock(at::kCPU);
  for (const char* phase : {"rollout", "critic", "rollout"}) {
    clock.enter(phase);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  const Metrics seconds = clock.seconds();
  const double all =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  ASSERT_EQ(seconds.size(), 2U);
  EXPECT_GE(seconds.at("seconds/rollout"), 0.006);
  EXPECT_GE(seconds.at("seconds/critic"), 0.003);
  EXPECT_LE(seconds.at("seconds/rollout") + seconds.at("seconds/critic"), all);
  EXPECT_TRUE(clock.seconds().empty()) << "begins anew";
}

}  // namespace
}  // namespace fastwan::training
