#include "text/prompt_clean.h"

#include "text/fix_text.h"
#include "text/html_entities.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

std::u32string collapse_white_space(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  bool in_run = false;
  for (const char32_t c : text) {
    const bool is_space = is_python_space(c);
    if (!is_space || !in_run) {
      out.push_back(is_space ? U' ' : c);
    }
    in_run = is_space;
  }
  return out;
}

}  // namespace

std::string prompt_clean(std::string_view prompt) {
  require_utf8(prompt, "the prompt");
  const std::u32string fixed = fix_text(to_utf32(prompt));
  const std::u32string plain = html_unescape(html_unescape(fixed));
  return to_utf8(collapse_white_space(strip_python_space(plain)));
}

std::string prompt_strip(std::string_view prompt) {
  require_utf8(prompt, "the prompt");
  return to_utf8(strip_python_space(to_utf32(prompt)));
}

}  // namespace fastwan::text
