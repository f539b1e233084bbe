#include "base/text.h"

#include <array>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/shape.h"

namespace fastwan {
namespace {

TEST(ParseInt, TakesDecimalsInRangeAndNothingElse) {
  EXPECT_EQ(parse_int("-12"), -12);
  EXPECT_EQ(parse_int("9223372036854775807"), INT64_MAX);
  for (const char* bad : {"", "+1", " 1", "1 ", "0x10", "1.0", "9223372036854775808", "1e3"}) {
    EXPECT_EQ(parse_int(bad), std::nullopt) << bad;
  }
}

TEST(ParseDouble, TakesExponentsAndRefusesWhatIsNotFinite) {
  EXPECT_EQ(parse_double("-2.5e-1"), -0.25);
  for (const char* bad : {"", "nan", "inf", "1e999", "1,5", "1.0 ", "0x1p3"}) {
    EXPECT_EQ(parse_double(bad), std::nullopt) << bad;
  }
}

TEST(FormatNumber, IsTheShortestTextThatReadsBackAsTheSameNumber) {
  for (const double value : {0.8, 5.0, 1e-06, 1.0 / 3.0, -0.0, 1e300}) {
    EXPECT_EQ(parse_double(format_number(value)), value) << format_number(value);
  }
  EXPECT_EQ(format_number(0.8), "0.8");
  EXPECT_EQ(format_number(5.0), "5");
}

TEST(IsValidUtf8, RefusesOverlongSurrogatesCutAndTooLarge) {
  EXPECT_TRUE(is_valid_utf8("a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80"));
  for (const char* bad : {"\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xE4\xB8",
                          "\xF4\x90\x80\x80", "\x80", "\xFF"}) {
    EXPECT_FALSE(is_valid_utf8(bad)) << escape_control(bad);
  }
}

TEST(EscapeControl, LeavesTextAndShowsControlAndBrokenBytes) {
  EXPECT_EQ(escape_control("caf\xC3\xA9"), "caf\xC3\xA9");
  EXPECT_EQ(escape_control("\x1b[2Ja\xFF"), "\\x1b[2Ja\\xff");
}

TEST(Nearest, ProposesALikelyMisspellingOnly) {
  const std::array<std::string, 3> known = {"height", "width", "seed"};
  EXPECT_EQ(nearest("heigth", known), "height");
  EXPECT_EQ(nearest("banana", known), std::nullopt);
}

TEST(Nearest, OfABeginningIsTheShortestWithThatFirstPart) {
  const std::vector<std::string> known = {"--model-path-of-something", "--model-path", "--models"};
  EXPECT_EQ(nearest("--model", known), "--models") << "a letter away comes first";
  const std::vector<std::string> long_names = {"--model-path-of-something", "--model-path"};
  EXPECT_EQ(nearest("--model", long_names), "--model-path");
  EXPECT_EQ(nearest("--mod", long_names), std::nullopt) << "within a part";
  EXPECT_EQ(nearest("-", long_names), std::nullopt);
}

TEST(JoinFirst, NamesAsManyAsAllowedAndTheCount) {
  const std::array<std::string, 3> items = {"a", "b", "c"};
  EXPECT_EQ(join_first(items, 3), "a, b, c");
  EXPECT_EQ(join_first(items, 2), "a, b, ... (3 in all)");
}

TEST(Shapes, BindsALetterAtFirstSightAndComparesItAfterwards) {
  Shapes shapes("WanBlock");
  shapes.expect("x", std::array<int64_t, 3>{1, 75600, 1536}, "B S C");
  shapes.expect("cond", std::array<int64_t, 3>{1, 6, 1536}, "B 6 C");
  EXPECT_EQ(shapes["S"], 75600);
  for (const auto& bad : {std::array<int64_t, 3>{1, 4, 1536}, {2, 6, 1536}, {1, 6, 1535}}) {
    try {
      shapes.expect("cond", bad, "B 6 C");
      ADD_FAILURE() << format_shape(bad) << " was accepted";
    } catch (const InvalidInput& e) {
      const std::string message = e.what();
      EXPECT_NE(message.find("WanBlock: cond must be [B 6 C] with B=1 C=1536"), std::string::npos)
          << message;
      EXPECT_NE(message.find("got " + format_shape(bad)), std::string::npos) << message;
    }
  }
  EXPECT_THROW(shapes.expect("x", std::array<int64_t, 2>{1, 75600}, "B S C"), InvalidInput);
}

}  // namespace
}  // namespace fastwan
