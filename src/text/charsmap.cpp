#include "text/charsmap.h"

#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

constexpr std::size_t kLongestWholeCluster = 5;  // bytes

// 0 to 63, or -1.
int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') {
    return c - 'A';
  }
  if (c >= 'a' && c <= 'z') {
    return c - 'a' + 26;
  }
  if (c >= '0' && c <= '9') {
    return c - '0' + 52;
  }
  if (c == '+') {
    return 62;
  }
  return c == '/' ? 63 : -1;
}

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) {
    return std::nullopt;
  }
  while (text.ends_with('=') && text.size() % 4 != 2) {  // at most two
    text.remove_suffix(1);
  }
  std::string out;
  out.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    const int digit = base64_digit(c);
    if (digit < 0) {
      return std::nullopt;
    }
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    num_bits += 6;
    if (num_bits >= 8) {
      num_bits -= 8;
      out.push_back(static_cast<char>((bits >> num_bits) & 0xFF));
    }
  }
  return out;
}

uint32_t little_endian(std::string_view bytes, std::size_t at) {
  uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return value;
}

bool has_leaf(uint32_t unit) {
  return ((unit >> 8) & 1) == 1;
}
uint32_t leaf_value(uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
uint32_t label(uint32_t unit) {
  return unit & 0x800000FF;
}
uint32_t offset(uint32_t unit) {
  return (unit >> 10) << ((unit & 0x200) >> 6);
}

}  // namespace

Charsmap::Charsmap(std::string_view base64, std::string origin) : origin_(std::move(origin)) {
  const std::optional<std::string> blob = decode_base64(base64);
  if (!blob.has_value()) {
    throw_damaged("is not base64");
  }
  if (blob->size() < 4) {
    throw_damaged("is too short");
  }
  const uint32_t trie_bytes = little_endian(*blob, 0);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob->size() - 4) {
    throw_damaged(str("says its trie has ", trie_bytes, " bytes of ", blob->size()));
  }
  units_.reserve(trie_bytes / 4);
  for (std::size_t at = 4; at < 4 + trie_bytes; at += 4) {
    units_.push_back(little_endian(*blob, at));
  }
  replacements_ = blob->substr(4 + trie_bytes);
  if (!is_valid_utf8(replacements_)) {
    throw_damaged("has replacements that are not UTF-8");
  }
}

void Charsmap::throw_damaged(std::string_view what) const {
  throw InvalidInput(Code::kBadTokenizer,
                     str(origin_, ": precompiled_charsmap ", what, ". Is the file damaged?"));
}

uint32_t Charsmap::unit(std::size_t at) const {
  if (at >= units_.size()) {
    throw_damaged("points outside itself");
  }
  return units_[at];
}

std::optional<std::string_view> Charsmap::replacement(std::string_view part) const {
  std::size_t at = offset(unit(0));
  for (const char c : part) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) {
      break;
    }
    at ^= byte;
    const uint32_t here = unit(at);
    if (label(here) != byte) {
      break;
    }
    at ^= offset(here);
    if (has_leaf(here)) {
      const std::size_t begin = leaf_value(unit(at));
      if (begin > replacements_.size()) {
        throw_damaged("points outside its replacements");
      }
      const std::string_view rest = std::string_view(replacements_).substr(begin);
      const std::string_view found = rest.substr(0, rest.find('\0'));
      if (!is_valid_utf8(found)) {
        throw_damaged("points into a character");
      }
      return found;
    }
  }
  return std::nullopt;
}

std::string Charsmap::apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (const std::string_view cluster : graphemes(text)) {
    if (cluster.size() <= kLongestWholeCluster) {
      if (const auto whole = replacement(cluster)) {
        out += *whole;
        continue;
      }
    }
    for (std::size_t at = 0; at < cluster.size();) {
      const std::string_view character = cluster.substr(at, utf8_length(cluster[at]));
      out += replacement(character).value_or(character);
      at += character.size();
    }
  }
  return out;
}

}  // namespace fastwan::text
