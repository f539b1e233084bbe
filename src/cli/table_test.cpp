#include "cli/table.h"

#include <gtest/gtest.h>

namespace fastwan::cli {
namespace {

TEST(Table, ColumnsAlignByCharactersAndLinesEndWithoutSpace) {
  Table table;
  table.add({"a", "size", "x"});
  table.add({"l\xc3\xa4nge", "1"});
  EXPECT_EQ(table.text(), "a      size  x\nl\xc3\xa4nge  1\n");
  EXPECT_EQ(Table().text(), "");
}

TEST(FormatCount, HasThreeDigits) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1'418'996'800), "1.42 G");
  EXPECT_EQ(format_count(275.4e12), "275 T");
  EXPECT_EQ(format_count(14.29e9), "14.3 G");
}

}  // namespace
}  // namespace fastwan::cli
