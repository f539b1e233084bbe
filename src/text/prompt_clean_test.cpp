#include "text/prompt_clean.h"

#include <string>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "text/fix_text.h"
#include "text/html_entities.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

std::string unescape(std::string_view text) {
  return to_utf8(html_unescape(to_utf32(text)));
}

std::string unescape_whole(std::string_view text) {
  return to_utf8(unescape_whole_references(to_utf32(text)));
}

std::string fix(std::string_view text) {
  return to_utf8(fix_text(to_utf32(text)));
}

TEST(PromptClean, EqualsDiffusersOnEveryGolden) {
  const Json cases = read_json_file("tests/golden/text/clean.json");
  ASSERT_GE(cases.size(), 500u);
  for (const Json& item : cases) {
    EXPECT_EQ(prompt_clean(item[0].get<std::string>()), item[1].get<std::string>())
        << "prompt: " << item[0];
  }
}

TEST(PromptClean, RepairsEachKindOfDamage) {
  EXPECT_EQ(prompt_clean("sch\u00C3\u00B6n"), "sch\u00F6n");   // as Latin-1
  EXPECT_EQ(prompt_clean("don\u00E2\u20AC\u2122t"), "don't");  // as Windows-1252
  EXPECT_EQ(prompt_clean("\u201Ccurly\u201D \u2018quotes\u2019"), "\"curly\" 'quotes'");
  EXPECT_EQ(prompt_clean("a\u00A0\u00A0b"), "a b");
  EXPECT_EQ(prompt_clean("C\u0093quoted\u0094"), "C\"quoted\"");
  EXPECT_EQ(prompt_clean("\uFF26\uFF35\uFF2C\uFF2C\u3000\uFF11"), "FULL 1");
  EXPECT_EQ(prompt_clean("one\r\ntwo\u2028three"), "one two three");
  EXPECT_EQ(prompt_clean("Tom &amp;amp; Jerry"), "Tom & Jerry");
}

TEST(PromptClean, LeavesIntendedAccentsAlone) {
  for (const char* text :
       {"Sch\u00F6nheit", "\u00C0 la carte", "\u041F\u0440\u0438\u0432\u0435\u0442", "\u4E2D\u6587",
        "na\u00EFve caf\u00E9"}) {
    EXPECT_EQ(prompt_clean(text), text);
  }
}

TEST(PromptClean, IsDoneAfterOnePassOverItsOwnResult) {
  // Not a law of ftfy, but of these: a prompt stored by us and cleaned again stays what it is.
  for (const char* text : {"Tom &amp; Jerry", "sch\u00C3\u00B6n", "  a  b  ", "\uFB01ne"}) {
    const std::string once = prompt_clean(text);
    EXPECT_EQ(prompt_clean(once), once);
  }
}

TEST(PromptStrip, TakesOnlyTheEnds) {
  EXPECT_EQ(prompt_strip(" \t a  \u201Cb\u201D &amp; \u3000\x1F\n"), "a  \u201Cb\u201D &amp;");
  EXPECT_EQ(prompt_strip("\u200B"), "\u200B");  // zero-width space is no space
  EXPECT_EQ(prompt_strip(" \n "), "");
}

TEST(PromptClean, NamesTheFirstByteThatIsNotUtf8) {
  for (const std::string bad :
       {"ab\xFF", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\x80", "ab\xF5\x80\x80\x80"}) {
    for (const auto clean : {prompt_clean, prompt_strip}) {
      try {
        clean(bad);
        ADD_FAILURE() << "accepted";
      } catch (const InvalidInput& error) {
        EXPECT_EQ(error.code(), Code::kNotUtf8);
        EXPECT_NE(std::string(error.what()).find("at byte 2"), std::string::npos) << error.what();
      }
    }
  }
}

TEST(HtmlUnescape, FollowsTheLongestNameAndTheInvalidNumbers) {
  EXPECT_EQ(unescape("&amp;lt; &notit; &notin; &ampx"), "&lt; \u00ACit; \u2209 &x");
  EXPECT_EQ(unescape("&#65;&#x42;&#X43&#0;&#x80;&#1;"), "ABC\uFFFD\u20AC");
  EXPECT_EQ(unescape("&#xD800;&#x110000;&#99999999999999999999;"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(unescape("&; && &#; &#x; &nosuch; &"), "&; && &#; &#x; &nosuch; &");
  EXPECT_EQ(unescape("&NotEqualTilde;"), "\u2242\u0338");
}

TEST(UnescapeWholeReferences, WantsTheSemicolonAndKnowsUpperCaseLetters) {
  EXPECT_EQ(unescape_whole("this&not that &amp"), "this&not that &amp");
  EXPECT_EQ(unescape_whole("P&EACUTE;REZ STRA&SZLIG;E"), "P\u00C9REZ STRASSE");
  EXPECT_EQ(unescape_whole("&#59; &#65;"), "&#59; A");  // a decoded semicolon looks like a rest
}

TEST(FixText, KeepsReferencesFromTheFirstTagOn) {
  EXPECT_EQ(fix("a &amp; b\n<b> &amp;\nc &amp; d"), "a & b\n<b> &amp;\nc &amp; d");
}

TEST(FixText, EndsOnDeeplyEscapedText) {
  std::string nested = "&";
  for (int i = 0; i < 300; ++i) {
    nested += "amp;";
  }
  EXPECT_EQ(fix(nested), "&");
}

}  // namespace
}  // namespace fastwan::text
