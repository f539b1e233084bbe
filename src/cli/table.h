// Columns of text, as wide as their widest cell.
#pragma once

#include <string>
#include <vector>

namespace fastwan::cli {

class Table {
 public:
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // One line a row, two spaces between columns, no space at the end of a line.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Four digits: more than intervals leave meaning to; --json has them all.
std::string format_figure(double figure);

// "1.42 G" for 1'418'996'800: decimal steps, three digits.
std::string format_count(double count);

}  // namespace fastwan::cli
