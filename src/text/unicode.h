// Unicode text as code points, and what the rules of Python and Rust call white space.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fastwan::text {

// InvalidInput not_utf8, naming `what` and the first bad byte, unless `bytes` is UTF-8 (no
// surrogates, no overlong forms).
void require_utf8(std::string_view bytes, std::string_view what);

std::u32string to_utf32(std::string_view utf8);  // of valid UTF-8
std::string to_utf8(std::u32string_view text);
void append_utf8(char32_t code_point, std::string& to);
std::size_t utf8_length(char first_byte);  // 1 to 4, of a valid sequence

// What Python's str.strip() and \s take: White_Space and the separators U+001C to U+001F.
bool is_python_space(char32_t c);
// The Unicode property White_Space, as Rust's char::is_whitespace and \s.
bool is_white_space(char32_t c);
// \w of Rust's regex crate, by general category.
bool is_word(char32_t c);

std::u32string_view strip_python_space(std::u32string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view utf8, NormalForm form);
std::string to_lowercase(std::string_view utf8);  // by character, without the final-sigma rule

// Extended grapheme clusters, in order; they cover the text.
std::vector<std::string_view> graphemes(std::string_view utf8);

}  // namespace fastwan::text
