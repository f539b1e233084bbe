// Small text helpers that need no library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace fastwan {

// All parts, written with operator<< in the classic locale, in one string.
template <class... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  (out << ... << parts);
  return out.str();
}

// "a, b, c"; at most `limit` items, then "... (N in all)".
std::string join_first(std::span<const std::string> items, std::size_t limit);

std::vector<std::string> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);  // ASCII white space
std::string to_lower(std::string_view text);   // ASCII
bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes);
std::string replace_all(std::string text, std::string_view from, std::string_view to);

// Strict decimal, locale-free: no sign prefix '+', no white space, no hex, no overflow; nullopt
// otherwise.
std::optional<int64_t> parse_int(std::string_view text);
std::optional<double> parse_double(std::string_view text);  // also exponents; never inf or nan
// Shortest text that reads back as the same number ("0.8", "5", "1e-06").
std::string format_number(double value);

bool is_valid_utf8(std::string_view bytes);
// Foreign text made safe for a terminal: control bytes and invalid UTF-8 become \xNN.
std::string escape_control(std::string_view text);
// The candidate nearest in edit distance, if near enough to be a likely misspelling.
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

// "1.42 GB", "512 bytes" (decimal units).
std::string format_bytes(double bytes);

}  // namespace fastwan
