#include "base/shape.h"

#include <array>

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan {
namespace {

std::string message_of(Shapes& shapes, std::span<const int64_t> sizes, const char* pattern) {
  try {
    shapes.expect("cond", sizes, pattern);
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kBadTensor);
    return error.what();
  }
  return "";
}

TEST(Shapes, ALetterBindsAtFirstSightAndIsComparedAfterwards) {
  Shapes shapes("WanBlock");
  shapes.expect("x", std::array<int64_t, 3>{2, 75600, 1536}, "B S C");
  EXPECT_EQ(shapes["C"], 1536);
  EXPECT_EQ(message_of(shapes, std::array<int64_t, 3>{2, 6, 1536}, "B 6 C"), "");
  EXPECT_EQ(message_of(shapes, std::array<int64_t, 3>{1, 4, 1536}, "B 6 C"),
            "WanBlock: cond must be [B 6 C] with B=2 C=1536, got [1, 4, 1536]");
}

TEST(Shapes, ARefusedShapeBindsNothing) {
  Shapes shapes("x");
  EXPECT_NE(message_of(shapes, std::array<int64_t, 2>{3, 5}, "A 4"), "");
  EXPECT_EQ(message_of(shapes, std::array<int64_t, 2>{7, 4}, "A 4"), "");
}

TEST(Shapes, RankAndRepeatedLettersAreChecked) {
  Shapes shapes("x");
  EXPECT_NE(message_of(shapes, std::array<int64_t, 2>{3, 3}, "A A A"), "");
  EXPECT_NE(message_of(shapes, std::array<int64_t, 2>{3, 4}, "A A"), "");
  EXPECT_EQ(message_of(shapes, std::array<int64_t, 2>{3, 3}, "A A"), "");
  EXPECT_EQ(format_shape({}), "[]");
}

}  // namespace
}  // namespace fastwan
