#include "text/fix_text.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "text/html_entities.h"
#include "text/mojibake.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

struct CharRange {
  char32_t first;
  char32_t last;
};
struct Translation {
  char32_t from;
  char32_t to[3];  // ends at 0
};

#include "text/fix_text_tables.inc"

constexpr std::size_t kMaxSegment = 1'000'000;  // code points fixed at once

std::u32string translate(std::u32string_view text, std::span<const Translation> table) {
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    const auto at = std::lower_bound(
        table.begin(), table.end(), c,
        [](const Translation& entry, char32_t wanted) { return entry.from < wanted; });
    if (at == table.end() || at->from != c) {
      out.push_back(c);
      continue;
    }
    for (const char32_t to : at->to) {
      if (to != 0) {
        out.push_back(to);
      }
    }
  }
  return out;
}

std::u32string uncurl_quotes(std::u32string text) {
  for (char32_t& c : text) {
    if (c >= 0x201C && c <= 0x201F) {
      c = '"';
    } else if (c == 0x2BC || (c >= 0x2018 && c <= 0x201B)) {
      c = '\'';
    }
  }
  return text;
}

std::u32string fix_line_breaks(std::u32string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char32_t c = text[at];
    if (c == '\r' && at + 1 < text.size() && text[at + 1] == '\n') {
      continue;
    }
    out.push_back(c == '\r' || c == 0x2028 || c == 0x2029 || c == 0x85 ? U'\n' : c);
  }
  return out;
}

bool is_digit(char32_t c) {
  return std::any_of(std::begin(kDigits), std::end(kDigits),
                     [c](const CharRange& range) { return c >= range.first && c <= range.last; });
}

// Length of a colour or cursor sequence, ESC [ digits and semicolons, a letter; 0 if none.
std::size_t terminal_escape_length(std::u32string_view text) {
  if (!text.starts_with(U"\x1B[")) {
    return 0;
  }
  std::size_t at = 2;
  while (at < text.size() && (text[at] == ';' || is_digit(text[at]))) {
    ++at;
  }
  const char32_t lower = at < text.size() ? text[at] | 0x20 : 0;
  return text.size() > at && text[at] < 0x80 && lower >= 'a' && lower <= 'z' ? at + 1 : 0;
}

std::u32string remove_terminal_escapes(std::u32string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = terminal_escape_length(text.substr(at));
    if (length == 0) {
      out.push_back(text[at]);
    }
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

bool is_useless_control(char32_t c) {
  return c <= 0x08 || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
         (c >= 0x206A && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFC);
}

// One line: each repair in ftfy's order, again until nothing changes.
std::u32string fix_segment(std::u32string text, bool unescapes_html) {
  while (true) {
    std::u32string fixed = unescapes_html ? unescape_whole_references(text) : text;
    fixed = fix_encoding(std::move(fixed));
    fixed = fix_c1_controls(std::move(fixed));
    fixed = translate(fixed, kLigatures);
    fixed = translate(fixed, kWidths);
    fixed = uncurl_quotes(std::move(fixed));
    fixed = fix_line_breaks(fixed);
    fixed = remove_terminal_escapes(fixed);
    std::erase_if(fixed, is_useless_control);
    fixed = to_utf32(normalize(to_utf8(fixed), NormalForm::kNfc));
    if (fixed == text) {
      return fixed;
    }
    text = std::move(fixed);
  }
}

}  // namespace

std::u32string fix_text(std::u32string_view text) {
  std::u32string out;
  // The first line with a "<" says that this is HTML itself: its references stay, and those of
  // the lines after it.
  bool unescapes_html = true;
  while (!text.empty()) {
    const std::size_t line_feed = text.find(U'\n');
    std::size_t length = line_feed == std::u32string_view::npos ? text.size() : line_feed + 1;
    length = std::min(length, kMaxSegment);
    const std::u32string_view segment = text.substr(0, length);
    unescapes_html = unescapes_html && segment.find(U'<') == std::u32string_view::npos;
    out += fix_segment(std::u32string(segment), unescapes_html);
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace fastwan::text
