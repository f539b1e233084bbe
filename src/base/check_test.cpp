#include "base/check.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace fastwan {
namespace {

TEST(Codes, EveryCodeHasOneNameAndTheStatusOfItsKind) {
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(Code::kInternal); ++i) {
    const CodeInfo& it = info(static_cast<Code>(i));
    EXPECT_TRUE(names.insert(it.name).second) << it.name << " occurs twice";
    EXPECT_EQ(std::string(it.name).find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789"),
              std::string::npos)
        << it.name;
  }
  EXPECT_EQ(info(Code::kUnknownOption).exit_status, 2);
  EXPECT_EQ(info(Code::kBadOffsets).exit_status, 3);
  EXPECT_EQ(info(Code::kNotFound).exit_status, 4);
  EXPECT_EQ(info(Code::kDiskFull).exit_status, 5);
  EXPECT_EQ(info(Code::kNonFinite).exit_status, 6);
  EXPECT_EQ(info(Code::kExists).exit_status, 8);
  EXPECT_EQ(info(Code::kDeviceFault).exit_status, 10);
  EXPECT_EQ(info(Code::kStopped).exit_status, 130);
  EXPECT_EQ(info(Code::kInternal).exit_status, 1);
  EXPECT_THROW(info(static_cast<Code>(9999)), std::logic_error);
}

TEST(Invariant, NamesFileLineAndClaimOnlyWhenItIsBroken) {
  EXPECT_NO_THROW(invariant(true, "fine"));
  try {
    invariant(false, "tiles add up");
    FAIL() << "must throw";
  } catch (const std::logic_error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("check_test.cpp:"), std::string::npos) << what;
    EXPECT_NE(what.find("tiles add up"), std::string::npos) << what;
  }
}

}  // namespace
}  // namespace fastwan
