// The unigram language model: the most likely way to cut a word into pieces.
//
//   best(0) = 0,  best(j) = max over pieces w that end at j of best(j - |w|) + score(w)
//
// Scores are log probabilities in fp64. A character that no piece covers alone is an unknown with
// the lowest score of all pieces minus 10. Of equal candidates the one that starts first wins.
// Unknowns that touch are one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/trie.h"

namespace fastwan::text {

class Unigram {
 public:
  // `model` of tokenizer.json. InvalidInput bad_json, bad_tokenizer.
  static Unigram parse(const Json& model, const std::string& origin);

  void encode(std::string_view word, std::vector<int64_t>& ids) const;
  int64_t find(std::string_view piece) const { return trie_.find(piece); }  // -1: none

 private:
  struct Vocabulary {
    std::vector<std::string> pieces;
    std::vector<double> scores;
  };
  static Vocabulary parse_vocabulary(const Json& model, const std::string& origin);
  Unigram(Vocabulary vocabulary, int64_t unknown_id, bool has_byte_fallback);
  void append_ids(std::string_view piece, std::vector<int64_t>& ids) const;

  Trie trie_;
  std::vector<double> scores_;
  int64_t unknown_id_;
  double unknown_score_;
  bool has_byte_fallback_;  // unknown text as pieces <0x00> to <0xFF>
};

}  // namespace fastwan::text
