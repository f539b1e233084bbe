#include "cli/table.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "base/text.h"

namespace fastwan::cli {
namespace {

// Characters, not bytes.
std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const std::vector<std::string>& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], columns_of(row[i]));
    }
  }
  std::string out;
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i] + std::string(widths[i] - columns_of(row[i]) + 2, ' ');
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string format_figure(double figure) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.4g", figure);
  return text.data();
}

std::string format_count(double count) {
  constexpr std::array kSteps = {"", " k", " M", " G", " T", " P", " E"};
  std::size_t step = 0;
  while (count >= 1000 && step + 1 < kSteps.size()) {
    count /= 1000;
    ++step;
  }
  std::array<char, 32> digits{};
  const int decimals = step == 0 || count >= 100 ? 0 : count >= 10 ? 1 : 2;
  std::snprintf(digits.data(), digits.size(), "%.*f", decimals, count);
  return str(digits.data(), kSteps[step]);
}

}  // namespace fastwan::cli
