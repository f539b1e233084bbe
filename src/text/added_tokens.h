// Added tokens: strings such as </s> that are found in the text itself, outside the model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/segment.h"
#include "text/trie.h"

namespace fastwan::text {

struct AddedToken {
  int64_t id = 0;
  std::string content;
  bool is_single_word = false;  // only between non-word characters
  bool strips_left = false;     // takes the white space before it
  bool strips_right = false;    // and after it
  bool is_normalized = true;    // looked for after normalisation
};

AddedToken parse_added_token(const Json& token, int64_t id, std::string_view origin);

// Finds tokens in text: the leftmost first, of those the longest.
class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  struct Part {
    std::size_t begin;
    std::size_t end;
    int64_t id;  // -1: text between tokens
  };
  // Parts that cover `text`, in order.
  std::vector<Part> split(std::string_view text) const;

 private:
  std::vector<AddedToken> tokens_;
  Trie trie_;
};

}  // namespace fastwan::text
