#include "cli/machine.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace fastwan::cli {
namespace {

TEST(Machine, NamesItsProcessorInOneLine) {
  const std::string name = cpu_name();
  EXPECT_EQ(name, trim(name));
  EXPECT_EQ(name.find_first_of(":\n"), std::string::npos) << name;
#if defined(__x86_64__)  // other kernels need not tell
  EXPECT_NE(name, "");
#endif
}

TEST(Machine, KnowsTheRateOfADataSheetByTheDriversName) {
  EXPECT_EQ(promised_rate("NVIDIA H100 80GB HBM3"), 989.5e12);
  EXPECT_EQ(promised_rate("NVIDIA H100 PCIe"), 756.5e12);
  EXPECT_EQ(promised_rate("NVIDIA H200"), 989.5e12);
  EXPECT_EQ(promised_rate("NVIDIA H200 NVL"), 835.5e12);
  EXPECT_EQ(promised_rate("NVIDIA GH200 480GB"), 989.5e12);
  EXPECT_EQ(promised_rate("NVIDIA A100-SXM4-80GB"), 312e12);
  EXPECT_EQ(promised_rate("NVIDIA A10"), 125e12);
  EXPECT_EQ(promised_rate("NVIDIA L4"), 121e12);
  EXPECT_EQ(promised_rate("NVIDIA L40S"), 362e12);
}

TEST(Machine, SaysNothingOfOtherGpus) {
  EXPECT_EQ(promised_rate("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), std::nullopt);
  EXPECT_EQ(promised_rate("NVIDIA A10G"), std::nullopt);  // half an A10
  EXPECT_EQ(promised_rate("NVIDIA GeForce RTX 4090"), std::nullopt);
  EXPECT_EQ(promised_rate(""), std::nullopt);
}

}  // namespace
}  // namespace fastwan::cli
