#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"

namespace fastwan::text {
namespace {

std::vector<std::string> contents(const std::vector<AddedToken>& tokens) {
  std::vector<std::string> out;
  out.reserve(tokens.size());
  for (const AddedToken& token : tokens) {
    out.push_back(token.content);
  }
  return out;
}

std::size_t leading_white_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = utf8_length(text[at]);
    if (!is_white_space(to_utf32(text.substr(at, length)).front())) {
      break;
    }
    at += length;
  }
  return at;
}

// Where the text's last character begins.
std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
    --at;
  }
  return at;
}

// Where the white space at the text's end begins.
std::size_t trailing_white_space(std::string_view text) {
  while (!text.empty()) {
    const std::size_t at = last_character(text);
    if (!is_white_space(to_utf32(text.substr(at)).front())) {
      break;
    }
    text = text.substr(0, at);
  }
  return text.size();
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(to_utf32(text.substr(0, utf8_length(text[0]))).front());
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(to_utf32(text.substr(last_character(text))).front());
}

}  // namespace

AddedToken parse_added_token(const Json& token, int64_t id, std::string_view origin) {
  AddedToken out{.id = id, .content = json_get<std::string>(token, "content", origin)};
  out.is_single_word = json_get_or(token, "single_word", false, origin);
  out.strips_left = json_get_or(token, "lstrip", false, origin);
  out.strips_right = json_get_or(token, "rstrip", false, origin);
  out.is_normalized = json_get_or(token, "normalized", true, origin);
  return out;
}

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), trie_(contents(tokens_)) {}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::split(std::string_view text) const {
  std::vector<Part> parts;
  std::size_t done = 0;  // end of the last part
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = 0;
    const AddedToken* token = nullptr;
    trie_.prefixes(text.substr(at), [&](std::size_t matched, int32_t number) {
      length = matched;
      token = &tokens_[static_cast<std::size_t>(number)];
    });
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + length;
    at = end;
    if (token->is_single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token->strips_left) {
      begin = std::max(trailing_white_space(text.substr(0, begin)), done);
    }
    if (token->strips_right) {
      end += leading_white_space(text.substr(end));
    }
    if (done < begin) {
      parts.push_back({.begin = done, .end = begin, .id = -1});
    }
    parts.push_back({.begin = begin, .end = end, .id = token->id});
    done = end;
  }
  if (done < text.size()) {
    parts.push_back({.begin = done, .end = text.size(), .id = -1});
  }
  return parts;
}

}  // namespace fastwan::text
