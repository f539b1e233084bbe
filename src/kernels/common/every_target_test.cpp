// Which instruction sets the tests of kernels run, against what the machine says of itself.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/common/every_target_test.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {

int64_t compiled_for() {
  return HWY_TARGET;
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#if HWY_ARCH_ARM_A64
#include <sys/auxv.h>
#include <sys/prctl.h>
#endif

#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

HWY_EXPORT(compiled_for);

// The best first, as Highway orders them.
std::vector<std::string> sets_of_this_machine() {
  std::vector<std::string> sets;
  const auto add = [&](bool is_there, const char* name) {
    if (is_there) {
      sets.emplace_back(name);
    }
  };
#if HWY_ARCH_X86
  add(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"),
      "AVX3");
  add(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), "AVX2");
  add(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"), "SSE4");
  add(__builtin_cpu_supports("ssse3"), "SSSE3");
  add(true, "SCALAR");
#elif HWY_ARCH_ARM_A64
  const unsigned long first = ::getauxval(AT_HWCAP), second = ::getauxval(AT_HWCAP2);
  const int vector_bytes = ::prctl(PR_SVE_GET_VL) & PR_SVE_VL_LEN_MASK;  // some bits set on failure
  const bool has_sve = (first & HWCAP_SVE) != 0, has_sve2 = (second & HWCAP2_SVE2) != 0;
  add(has_sve2 && vector_bytes == 16, "SVE2_128");
  add(has_sve && vector_bytes == 32, "SVE_256");
  add(has_sve2, "SVE2");
  add(has_sve, "SVE");
  add((first & HWCAP_AES) != 0, "NEON");
#endif
  return sets;
}

TEST(EveryTarget, IsEachInstructionSetOfThisMachineAndRunsTheCodeOfThatSet) {
  std::vector<std::string> names;
  testing::on_every_target([&](const std::string& name) {
    names.push_back(name);
    EXPECT_EQ(hwy::TargetName(HWY_DYNAMIC_DISPATCH(compiled_for)()), name);
  });
  EXPECT_EQ(names, sets_of_this_machine());
  std::string list;
  for (const std::string& name : names) {
    list += (list.empty() ? "" : " ") + name;
  }
  RecordProperty("instruction_sets", list);  // tools/check_arm64 reads it
}

}  // namespace
}  // namespace fastwan::kernels
#endif
