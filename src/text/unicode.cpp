#include "text/unicode.h"

#include <cstdlib>
#include <memory>

#include <utf8proc.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::text {
namespace {

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

utf8proc_ssize_t size_of(std::string_view text) {
  return static_cast<utf8proc_ssize_t>(text.size());
}

// Calls take(code point, its bytes) for each character.
template <class Take>
void for_each_character(std::string_view utf8, const Take& take) {
  for (std::size_t at = 0; at < utf8.size();) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(
        bytes_of(utf8) + at, static_cast<utf8proc_ssize_t>(utf8.size() - at), &code);
    invariant(length > 0, "text is valid UTF-8 here");
    take(static_cast<char32_t>(code), utf8.substr(at, static_cast<std::size_t>(length)));
    at += static_cast<std::size_t>(length);
  }
}

}  // namespace

void require_utf8(std::string_view bytes, std::string_view what) {
  for (std::size_t at = 0; at < bytes.size();) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(
        bytes_of(bytes) + at, static_cast<utf8proc_ssize_t>(bytes.size() - at), &code);
    if (length <= 0) {
      throw InvalidInput(
          Code::kNotUtf8,
          str(what, " must be UTF-8 text, got an invalid sequence at byte ", at, ": ",
              escape_control(bytes.substr(at, 1)), ". Convert it to UTF-8 first"));
    }
    at += static_cast<std::size_t>(length);
  }
}

std::u32string to_utf32(std::string_view utf8) {
  std::u32string out;
  out.reserve(utf8.size());
  for_each_character(utf8, [&](char32_t c, std::string_view) { out.push_back(c); });
  return out;
}

void append_utf8(char32_t code_point, std::string& to) {
  utf8proc_uint8_t buffer[4];
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), buffer);
  invariant(length > 0, "a code point can be written as UTF-8");
  to.append(reinterpret_cast<const char*>(buffer), static_cast<std::size_t>(length));
}

std::string to_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    append_utf8(c, out);
  }
  return out;
}

std::size_t utf8_length(char first_byte) {
  const auto byte = static_cast<unsigned char>(first_byte);
  if (byte < 0x80) {
    return 1;
  }
  if (byte < 0xE0) {
    return 2;
  }
  return byte < 0xF0 ? 3 : 4;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_python_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

bool is_word(char32_t c) {
  // Alphabetic symbols (circled and squared Latin letters) and the two joiners are \w as well.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
      c == 0x200D) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

std::u32string_view strip_python_space(std::u32string_view text) {
  while (!text.empty() && is_python_space(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && is_python_space(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

std::string normalize(std::string_view utf8, NormalForm form) {
  int options = UTF8PROC_STABLE;
  const bool composes = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  options |= composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) {
    options |= UTF8PROC_COMPAT;
  }
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(bytes_of(utf8), size_of(utf8), &raw, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owned(raw, &std::free);
  invariant(length >= 0, "valid UTF-8 has a normal form");
  return std::string(reinterpret_cast<const char*>(raw), static_cast<std::size_t>(length));
}

std::string to_lowercase(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  for_each_character(utf8, [&](char32_t c, std::string_view) {
    if (c == 0x130) {  // the one character whose lower case is two
      out += "i\xCC\x87";
      return;
    }
    append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
  });
  return out;
}

std::vector<std::string_view> graphemes(std::string_view utf8) {
  std::vector<std::string_view> out;
  utf8proc_int32_t state = 0;
  utf8proc_int32_t previous = -1;
  std::size_t start = 0;
  for_each_character(utf8, [&](char32_t c, std::string_view bytes) {
    const auto code = static_cast<utf8proc_int32_t>(c);
    const auto at = static_cast<std::size_t>(bytes.data() - utf8.data());
    if (previous >= 0 && utf8proc_grapheme_break_stateful(previous, code, &state)) {
      out.push_back(utf8.substr(start, at - start));
      start = at;
    }
    previous = code;
  });
  if (start < utf8.size()) {
    out.push_back(utf8.substr(start));
  }
  return out;
}

}  // namespace fastwan::text
