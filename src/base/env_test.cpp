#include "base/env.h"

#include <algorithm>
#include <cstdlib>

#include <gtest/gtest.h>

namespace fastwan {
namespace {

TEST(Env, EmptyCountsAsUnset) {
  ::setenv("FASTWAN_LOG", "", 1);
  EXPECT_EQ(env("FASTWAN_LOG"), std::nullopt);
  ::setenv("FASTWAN_LOG", "warn", 1);
  EXPECT_EQ(env("FASTWAN_LOG"), "warn");
  ::unsetenv("FASTWAN_LOG");
  EXPECT_EQ(env("FASTWAN_LOG"), std::nullopt);
}

TEST(Env, OnlyOurUnknownVariablesAreNamed) {
  ::setenv("FASTWAN_THREADS", "2", 1);
  ::setenv("FASTWAN_THRAEDS", "2", 1);
  ::setenv("OTHER_THRAEDS", "2", 1);
  const std::vector<std::string> unknown = unknown_fastwan_variables();
  EXPECT_EQ(std::count(unknown.begin(), unknown.end(), "FASTWAN_THRAEDS"), 1);
  EXPECT_EQ(std::count(unknown.begin(), unknown.end(), "FASTWAN_THREADS"), 0);
  EXPECT_EQ(std::count(unknown.begin(), unknown.end(), "OTHER_THRAEDS"), 0);
  for (const char* name : {"FASTWAN_THREADS", "FASTWAN_THRAEDS", "OTHER_THRAEDS"}) {
    ::unsetenv(name);
  }
}

TEST(Env, VariablesOfTheToolsAroundTheProgramAreKnown) {
  const std::vector<const char*> of_tools = {"FASTWAN_BIN", "FASTWAN_LIB_DIR",
                                             "FASTWAN_FUZZ_SECONDS"};
  for (const char* name : of_tools) {
    ::setenv(name, "x", 1);
  }
  ::setenv("FASTWAN_BINS", "x", 1);
  EXPECT_EQ(unknown_fastwan_variables(), std::vector<std::string>{"FASTWAN_BINS"});
  for (const char* name : of_tools) {
    ::unsetenv(name);
  }
  ::unsetenv("FASTWAN_BINS");
}

}  // namespace
}  // namespace fastwan
