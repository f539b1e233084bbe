#include "text/mojibake.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <vector>

#include "base/text.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

struct ClassMask {
  uint64_t low;
  uint64_t high;
  bool has(int index) const {
    return ((index < 64 ? low >> index : high >> (index - 64)) & 1) != 0;
  }
};
struct ClassRange {
  char32_t first;
  char32_t last;
  ClassMask mask;
};
struct CharPattern {
  bool only_at_start;
  int length;
  uint8_t classes[7];
};
struct ByteSet {
  uint64_t words[4];
  bool has(unsigned char byte) const { return ((words[byte / 64] >> (byte % 64)) & 1) != 0; }
};
struct BytePattern {
  std::size_t length;
  uint8_t sets[6];
};
struct Charmap {
  const char* name;
  bool sloppy;        // undefined bytes are Latin-1, byte 1A is U+FFFD
  bool keeps_spaces;  // a space after a lead byte is a space
  char32_t high[128];
};

#include "text/mojibake_tables.inc"

constexpr char32_t kReplacement = 0xFFFD;
constexpr unsigned char kSubstitute = 0x1A;  // stands for U+FFFD in a sloppy encoding
constexpr std::size_t kLatin1 = 0;           // its place in kCharmaps

ClassMask classes_of(char32_t c) {
  const auto after = std::upper_bound(
      std::begin(kClasses), std::end(kClasses), c,
      [](char32_t wanted, const ClassRange& range) { return wanted < range.first; });
  if (after == std::begin(kClasses) || c > std::prev(after)->last) {
    return {};
  }
  return std::prev(after)->mask;
}

std::vector<ClassMask> classes_of(std::u32string_view text) {
  std::vector<ClassMask> out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    out.push_back(classes_of(c));
  }
  return out;
}

bool is_ascii(std::u32string_view text) {
  return std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x80; });
}

bool is_c1_control(char32_t c) {
  return c >= 0x80 && c <= 0x9F;
}

bool matches(const CharPattern& pattern, std::span<const ClassMask> from) {
  if (from.size() < static_cast<std::size_t>(pattern.length)) {
    return false;
  }
  for (int i = 0; i < pattern.length; ++i) {
    if (!from[static_cast<std::size_t>(i)].has(pattern.classes[i])) {
      return false;
    }
  }
  return true;
}

// Does the text hold a sequence that hardly occurs in intended text?
bool is_bad(std::u32string_view text) {
  const std::vector<ClassMask> classes = classes_of(text);
  for (std::size_t at = 0; at < classes.size(); ++at) {
    for (const CharPattern& pattern : kBad) {
      if ((at == 0 || !pattern.only_at_start) && matches(pattern, std::span(classes).subspan(at))) {
        return true;
      }
    }
  }
  return false;
}

// The text as bytes of an encoding, if each character has a byte there.
std::optional<std::string> encode(std::u32string_view text, const Charmap& map) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    if (c < 0x80 && !(map.sloppy && c == kSubstitute)) {
      out.push_back(static_cast<char>(c));
      continue;
    }
    if (map.sloppy && c == kReplacement) {
      out.push_back(static_cast<char>(kSubstitute));
      continue;
    }
    const auto* const at = std::find(std::begin(map.high), std::end(map.high), c);
    if (at == std::end(map.high)) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(0x80 + (at - std::begin(map.high))));
  }
  return out;
}

// Length of the first pattern that matches at the start of `bytes`; 0 if none does.
std::size_t match_length(std::span<const BytePattern> patterns,
                         std::span<const ByteSet> sets,
                         std::string_view bytes) {
  for (const BytePattern& pattern : patterns) {
    if (bytes.size() < pattern.length) {
      continue;
    }
    std::size_t i = 0;
    while (i < pattern.length && sets[pattern.sets[i]].has(static_cast<unsigned char>(bytes[i]))) {
      ++i;
    }
    if (i == pattern.length) {
      return i;
    }
  }
  return 0;
}

bool has_altered_utf8(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    if (match_length(kAlteredUtf8, kAlteredUtf8Sets, bytes.substr(at)) > 0) {
      return true;
    }
  }
  return false;
}

// C3 and a space as a word of its own is "à" whose byte A0 became a space; a Portuguese word that
// goes on after it ("àquele") keeps its two parts together.
std::string restore_a_grave(std::string_view bytes) {
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    if (bytes.substr(at).starts_with("\xC3 ")) {
      const std::string_view next = bytes.substr(at + 2);
      const bool goes_on = next.starts_with(" ") || next.starts_with("quele") ||
                           next.starts_with("quela") || next.starts_with("quilo") ||
                           next.starts_with("s ");
      if (!goes_on) {
        out += "\xC3\xA0 ";
        at += 2;
        continue;
      }
    }
    out.push_back(bytes[at++]);
  }
  return out;
}

// Byte A0 that was turned into a space, where it would complete a UTF-8 sequence.
std::string restore_byte_a0(std::string_view altered) {
  const std::string bytes = restore_a_grave(altered);
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t length =
        match_length(kAlteredUtf8, kAlteredUtf8Sets, std::string_view(bytes).substr(at));
    for (std::size_t i = 0; i < std::max<std::size_t>(length, 1); ++i, ++at) {
      out.push_back(length > 0 && bytes[at] == ' ' ? '\xA0' : bytes[at]);
    }
  }
  return out;
}

// UTF-8 sequences with lost bytes become U+FFFD.
std::string replace_lossy_sequences(std::string_view bytes) {
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t length = match_length(kLossyUtf8, kLossyUtf8Sets, bytes.substr(at));
    if (length > 0) {
      out += "\xEF\xBF\xBD";
      at += length;
    } else {
      out.push_back(bytes[at++]);
    }
  }
  return out;
}

bool is_in(char byte, unsigned first, unsigned last) {
  const unsigned value = static_cast<unsigned char>(byte);
  return value >= first && value <= last;
}

// A surrogate pair written as two sequences of three bytes (CESU-8), at the start of `bytes`.
std::optional<char32_t> surrogate_pair(std::string_view bytes) {
  if (bytes.size() < 6) {
    return std::nullopt;
  }
  // The last byte may be a final line feed: ftfy's expression takes `$` for it.
  const bool ends = is_in(bytes[5], 0x80, 0xBF) || (bytes[5] == '\n' && bytes.size() == 6);
  if (!is_in(bytes[1], 0xA0, 0xAF) || !is_in(bytes[2], 0x80, 0xBF) ||
      !is_in(bytes[3], 0xED, 0xED) || !is_in(bytes[4], 0xB0, 0xBF) || !ends) {
    return std::nullopt;
  }
  const auto bits = [&](std::size_t i, unsigned mask) {
    return static_cast<char32_t>(static_cast<unsigned char>(bytes[i]) & mask);
  };
  return (bits(1, 0x0F) << 16) + (bits(2, 0x3F) << 10) + (bits(4, 0x0F) << 6) + bits(5, 0x3F) +
         0x10000;
}

// UTF-8 and its variants with surrogate pairs and with C0 80 for U+0000, rewritten as UTF-8.
std::optional<std::string> standardize_utf8(std::string_view bytes) {
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::string_view rest = bytes.substr(at);
    if (is_in(rest[0], 0xC0, 0xC0)) {
      // A final line feed after C0 is swallowed: ftfy's expression takes `$` for it.
      if (rest.size() < 2 ||
          !(is_in(rest[1], 0x80, 0x80) || (rest[1] == '\n' && rest.size() == 2))) {
        return std::nullopt;
      }
      out.push_back('\0');
      at += 2;
    } else if (is_in(rest[0], 0xED, 0xED) && rest.size() > 1 && is_in(rest[1], 0xA0, 0xBF)) {
      const std::optional<char32_t> pair = surrogate_pair(rest);
      if (!pair.has_value()) {
        return std::nullopt;
      }
      append_utf8(*pair, out);
      at += 6;
    } else {
      out.push_back(bytes[at++]);
    }
  }
  return out;
}

std::optional<std::u32string> decode_utf8(std::string_view bytes) {
  const bool may_be_variant = bytes.find_first_of("\xED\xC0") != std::string_view::npos;
  const std::optional<std::string> standard =
      may_be_variant ? standardize_utf8(bytes) : std::string(bytes);
  if (!standard.has_value() || !is_valid_utf8(*standard)) {
    return std::nullopt;
  }
  return to_utf32(*standard);
}

// The text as UTF-8 that was read in the given encoding.
std::optional<std::u32string> reread_as_utf8(std::u32string_view text, const Charmap& map) {
  std::optional<std::string> bytes = encode(text, map);
  if (!bytes.has_value()) {
    return std::nullopt;
  }
  if (!map.keeps_spaces && has_altered_utf8(*bytes)) {
    bytes = restore_byte_a0(*bytes);
  }
  if (map.sloppy) {
    bytes = replace_lossy_sequences(*bytes);
  }
  return decode_utf8(*bytes);
}

// Length of the run of UTF-8 look-alikes at `at`.
std::size_t look_alike_length(std::span<const ClassMask> classes, std::size_t at) {
  if (at > 0 && classes[at - 1].has(kContinuationStrict)) {
    return 0;
  }
  const auto continues = [&](std::size_t from, std::size_t count) {
    if (from + count > classes.size()) {
      return false;
    }
    const auto run = classes.subspan(from, count);
    return std::all_of(run.begin(), run.end(),
                       [](const ClassMask& mask) { return mask.has(kContinuation); });
  };
  std::size_t end = at;
  while (end < classes.size()) {
    if (classes[end].has(kFirstOf2) && continues(end + 1, 1)) {
      end += 2;
    } else if (classes[end].has(kFirstOf3) && continues(end + 1, 2)) {
      end += 3;
    } else if (classes[end].has(kFirstOf4) && continues(end + 1, 3)) {
      end += 4;
    } else {
      break;
    }
  }
  return end - at;
}

// Damaged parts inside text that cannot be read again as a whole.
std::u32string fix_embedded(std::u32string_view text) {
  const std::vector<ClassMask> classes = classes_of(text);
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = look_alike_length(classes, at);
    if (length == 0) {
      out.push_back(text[at++]);
      continue;
    }
    const std::u32string_view part = text.substr(at, length);
    out += length < text.size() && is_bad(part) ? fix_encoding(std::u32string(part))
                                                : std::u32string(part);
    at += length;
  }
  return out;
}

char32_t windows_1252(char32_t c) {
  return is_c1_control(c) ? kWindows1252[c - 0x80] : c;
}

// Latin-1 text with C1 controls that is Windows-1252 throughout.
std::optional<std::u32string> reread_as_windows_1252(std::u32string_view text) {
  std::u32string out;
  for (const char32_t c : text) {
    out.push_back(windows_1252(c));
    if (c != 0 && out.back() == 0) {
      return std::nullopt;
    }
  }
  return out;
}

std::u32string fix_encoding_once(const std::u32string& text) {
  if (is_ascii(text) || !is_bad(text)) {
    return text;
  }
  for (const Charmap& map : kCharmaps) {
    if (std::optional<std::u32string> fixed = reread_as_utf8(text, map)) {
      return *std::move(fixed);
    }
  }
  if (std::u32string fixed = fix_embedded(text); fixed != text) {
    return fixed;
  }
  if (encode(text, kCharmaps[kLatin1]).has_value()) {
    const std::optional<std::u32string> fixed = reread_as_windows_1252(text);
    if (fixed.has_value() && *fixed != text) {
      return *fixed;
    }
  }
  return fix_c1_controls(text);
}

}  // namespace

std::u32string fix_c1_controls(std::u32string text) {
  for (char32_t& c : text) {
    const char32_t meant = windows_1252(c);
    c = meant == 0 ? c : meant;
  }
  return text;
}

std::u32string fix_encoding(std::u32string text) {
  while (true) {
    std::u32string fixed = fix_encoding_once(text);
    if (fixed == text) {
      return fixed;
    }
    text = std::move(fixed);
  }
}

}  // namespace fastwan::text
