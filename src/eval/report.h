// One page of HTML with everything in it: tables, SVG plots, pictures as data URLs. No script, no
// font, no file beside it.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "eval/statistics.h"
#include "io/image.h"

namespace fastwan::eval {

struct Bar {
  std::string label;
  Estimate value;  // the whisker is [low, high]
};

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x rising
};

struct Axes {
  std::string x, y;
};

// Foreign text is escaped everywhere.
class Report {
 public:
  explicit Report(std::string title) : title_(std::move(title)) {}

  void heading(const std::string& text);
  void paragraph(const std::string& text);
  void table(const std::vector<std::string>& header,
             const std::vector<std::vector<std::string>>& rows);
  // Horizontal bars from 0 with whiskers; the axis reaches to `limit`, or to the largest value
  // where that is 0.
  void bars(const std::string& title, const std::vector<Bar>& bars, double limit = 0);
  // Lines over one x axis; points that are not finite break a line.
  void lines(const std::string& title, const Axes& axes, const std::vector<Series>& series);
  void picture(const std::string& caption, const io::Image& image);
  void png(const std::string& caption, std::string_view bytes);  // of a PNG file

  std::string html() const;

 private:
  std::string title_;
  std::string body_;
};

// "0.123", "1.2e-05": four digits, as tables show numbers; "infinite", "not a number".
std::string format_metric(double value);
std::string escape_html(const std::string& text);
std::string base64(std::string_view bytes);

// report.html and report.json in `folder`, which is made; durably.
void write_report(const Path& folder, const Report& report, const Json& numbers);

}  // namespace fastwan::eval
