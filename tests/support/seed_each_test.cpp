// In every test binary of a room with torch: each test draws the same random tensors in every run,
// whatever tests ran before it. Torch's generator starts from a random seed otherwise.
#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace {

class SeedEachTest final : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo& /*test*/) override { at::manual_seed(1); }
};

[[maybe_unused]] const bool kListens = [] {
  testing::UnitTest::GetInstance()->listeners().Append(new SeedEachTest);  // gtest deletes it
  return true;
}();

}  // namespace
