#include "eval/report.h"

#include <limits>

#include <gtest/gtest.h>

namespace fastwan::eval {
namespace {

int64_t count(const std::string& text, const std::string& part) {
  int64_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST(Base64, IsThatOfRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  EXPECT_EQ(base64("\xff\xfe\xfd"), "//79");
}

TEST(Report, EscapesForeignText) {
  Report report("<script>alert(1)</script>");
  report.heading("a & b");
  report.table({"<b>"}, {{"\"quoted\""}});
  report.bars("<i>", {{"<u>", {0.5, 0.4, 0.6}}});
  report.lines("t", {"x", "y"}, {{"<s>", {{0, 1}}}});
  report.picture("<p\n>", {1, 1, {1, 2, 3}});
  const std::string html = report.html();
  for (const char* part : {"<script", "<b>", "<i>", "<u>", "<s>", "<p\n"}) {
    EXPECT_EQ(count(html, part), 0) << part;
  }
  EXPECT_EQ(count(html, "&lt;script&gt;"), 2);
  EXPECT_EQ(count(html, "a &amp; b"), 1);
}

TEST(Report, HoldsEverythingItself) {
  Report report("clips");
  report.picture("two pixels", {2, 1, {255, 0, 0, 0, 0, 255}});
  const std::string html = report.html();
  EXPECT_EQ(count(html, "src=\"data:image/png;base64,iVBORw0KGgo"), 1);  // PNG's first bytes
  EXPECT_EQ(count(html, "http"), 0);
  EXPECT_EQ(count(html, "<script"), 0);
}

TEST(Report, DrawsBarsInProportionAndWhiskers) {
  Report report("bars");
  report.bars("share", {{"half", {0.5, 0.25, 0.75}}, {"all", {1, 1, 1}}}, 1);
  const std::string html = report.html();
  EXPECT_EQ(count(html, "<rect"), 2);
  EXPECT_EQ(count(html, "width=\"185.0\""), 1);  // (720 - 200 - 150) / 2
  EXPECT_EQ(count(html, "width=\"370.0\""), 1);
  EXPECT_EQ(count(html, "x1=\"292.5\""), 1);  // 200 + 370 / 4
  EXPECT_EQ(count(html, "0.5 [0.25, 0.75]"), 1);
}

TEST(Report, BreaksLinesAtWhatIsNotFinite) {
  Report report("lines");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  report.lines("loss", {"step", "loss"}, {{"a", {{0, 1}, {1, nan}, {2, 3}}}, {"b", {}}});
  const std::string html = report.html();
  EXPECT_EQ(count(html, "<polyline"), 3);
  EXPECT_EQ(count(html, "nan"), 0);
}

TEST(Report, NumbersAreShortAndHonest) {
  EXPECT_EQ(format_metric(0.123456), "0.1235");
  EXPECT_EQ(format_metric(std::numeric_limits<double>::infinity()), "infinite");
  EXPECT_EQ(format_metric(std::numeric_limits<double>::quiet_NaN()), "not a number");
}

TEST(Report, IsWrittenBesideItsNumbers) {
  const TempFolder folder;
  Report report("written");
  write_report(folder.where() / "out", report, {{"answer", 42}});
  EXPECT_NE(read_file(folder.where() / "out" / "report.html").find("<h1>written"),
            std::string::npos);
  EXPECT_EQ(read_json_file((folder.where() / "out" / "report.json").string())["answer"], 42);
}

}  // namespace
}  // namespace fastwan::eval
