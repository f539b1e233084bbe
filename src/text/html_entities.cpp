#include "text/html_entities.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>

namespace fastwan::text {
namespace {

struct Entity {
  const char* name;
  char32_t value[3];  // ends at 0
  bool bare;          // also a reference without its semicolon
};
struct CharPair {
  char32_t first;
  char32_t second;
};

#include "text/html_entities_table.inc"

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kTooLarge = 0x110000;
constexpr std::size_t kMaxName = 32;       // html.unescape looks at most this far
constexpr std::size_t kMaxWholeName = 24;  // the same for ftfy

bool is_digit(char32_t c) {
  return c >= '0' && c <= '9';
}

bool is_ascii_letter(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// 0 to 15, or -1.
int hex_digit(char32_t c) {
  if (is_digit(c)) {
    return static_cast<int>(c - '0');
  }
  const char32_t lower = c | 0x20;
  return lower >= 'a' && lower <= 'f' ? static_cast<int>(lower - 'a') + 10 : -1;
}

// Names are ASCII; another character makes the text unequal to all of them.
std::string narrow(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) {
    out.push_back(c < 0x80 ? static_cast<char>(c) : '\0');
  }
  return out;
}

const Entity* find(std::span<const Entity> table, std::string_view name) {
  const auto at = std::lower_bound(
      table.begin(), table.end(), name,
      [](const Entity& entity, std::string_view wanted) { return entity.name < wanted; });
  return at != table.end() && at->name == name ? &*at : nullptr;
}

std::u32string value_of(const Entity& entity) {
  std::u32string out;
  for (const char32_t c : entity.value) {
    if (c != 0) {
      out.push_back(c);
    }
  }
  return out;
}

std::u32string numeric_value(char32_t number) {
  for (const CharPair& pair : kInvalidReferences) {
    if (pair.first == number) {
      return {pair.second};
    }
  }
  if ((number >= 0xD800 && number <= 0xDFFF) || number >= kTooLarge) {
    return {kReplacement};
  }
  for (const CharPair& range : kDroppedCodePoints) {
    if (number >= range.first && number <= range.second) {
      return {};
    }
  }
  return {number};
}

// `name` is what follows the ampersand, with its semicolon if it has one.
std::u32string named_value(std::u32string_view name) {
  const bool ends = name.back() == U';';
  const std::string ascii = narrow(ends ? name.substr(0, name.size() - 1) : name);
  const Entity* whole = find(kHtml5, ascii);
  if (whole != nullptr && (ends || whole->bare)) {
    return value_of(*whole);
  }
  for (std::size_t length = name.size() - 1; length > 1; --length) {
    const Entity* prefix = find(kHtml5, std::string_view(ascii).substr(0, length));
    if (prefix != nullptr && prefix->bare) {
      return value_of(*prefix) + std::u32string(name.substr(length));
    }
  }
  return U"&" + std::u32string(name);
}

bool may_be_in_name(char32_t c) {
  return c != '\t' && c != '\n' && c != '\f' && c != ' ' && c != '<' && c != '&' && c != '#' &&
         c != ';';
}

struct Reference {
  std::size_t length = 0;  // after the ampersand, semicolon included; 0: none
  std::u32string value;
};

Reference numeric_reference(std::u32string_view rest) {
  const bool is_hex = rest.size() > 1 && (rest[1] == 'x' || rest[1] == 'X');
  const std::size_t first = is_hex ? 2 : 1;
  const char32_t base = is_hex ? 16 : 10;
  std::size_t at = first;
  char32_t number = 0;
  for (; at < rest.size(); ++at) {
    const int digit = hex_digit(rest[at]);
    if (digit < 0 || (!is_hex && digit > 9)) {
      break;
    }
    number = std::min<char32_t>(kTooLarge, number * base + static_cast<char32_t>(digit));
  }
  if (at == first) {
    return {};
  }
  if (at < rest.size() && rest[at] == ';') {
    ++at;
  }
  return {.length = at, .value = numeric_value(number)};
}

Reference named_reference(std::u32string_view rest) {
  std::size_t at = 0;
  while (at < rest.size() && at < kMaxName && may_be_in_name(rest[at])) {
    ++at;
  }
  if (at == 0) {
    return {};
  }
  if (at < rest.size() && rest[at] == ';') {
    ++at;
  }
  return {.length = at, .value = named_value(rest.substr(0, at))};
}

// The reference that begins after an ampersand.
Reference reference_at(std::u32string_view rest) {
  if (rest.empty()) {
    return {};
  }
  return rest[0] == '#' ? numeric_reference(rest) : named_reference(rest);
}

// The value of "&name;" or "&#12;", whole; nothing if it is not one that ftfy decodes.
std::optional<std::u32string> whole_value(std::u32string_view reference) {
  const std::u32string_view name = reference.substr(1, reference.size() - 2);
  if (name.front() == '#') {
    std::u32string value = html_unescape(reference);
    // A semicolon left over says that only a part was a reference.
    return value.find(U';') == std::u32string::npos ? std::optional(value) : std::nullopt;
  }
  const std::string ascii = narrow(name);
  for (const auto table : {std::span<const Entity>(kHtml5), std::span<const Entity>(kUpperCase)}) {
    if (const Entity* entity = find(table, ascii)) {
      return value_of(*entity);
    }
  }
  return std::nullopt;
}

}  // namespace

std::u32string html_unescape(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '&') {
      const Reference found = reference_at(text.substr(at + 1));
      if (found.length > 0) {
        out += found.value;
        at += 1 + found.length;
        continue;
      }
    }
    out.push_back(text[at++]);
  }
  return out;
}

std::u32string unescape_whole_references(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] != '&') {
      out.push_back(text[at++]);
      continue;
    }
    std::size_t end = at + 1;
    if (end < text.size() && text[end] == '#') {
      ++end;
    }
    const std::size_t name = end;
    while (end < text.size() && end - name < kMaxWholeName &&
           (is_digit(text[end]) || is_ascii_letter(text[end]))) {
      ++end;
    }
    if (end == name || end >= text.size() || text[end] != ';') {
      out.push_back(text[at++]);
      continue;
    }
    const std::u32string_view reference = text.substr(at, end + 1 - at);
    out += whole_value(reference).value_or(std::u32string(reference));
    at = end + 1;
  }
  return out;
}

}  // namespace fastwan::text
