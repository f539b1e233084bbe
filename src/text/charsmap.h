// SentencePiece's precompiled character map, as the tokenizers library applies it.
//
// The blob is: u32 size of a double-array trie in bytes | its units, u32 each | replacements, each
// UTF-8 and ended by NUL. All little-endian. A unit's bit 8 says that a leaf follows; a leaf's
// value is the offset of a replacement.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fastwan::text {

class Charsmap {
 public:
  // `base64` as in tokenizer.json. InvalidInput bad_tokenizer, naming `origin`.
  Charsmap(std::string_view base64, std::string origin);

  // Grapheme cluster by grapheme cluster: one shorter than 6 bytes is replaced whole if the map
  // has any prefix of it (the shortest counts, the rest is dropped); else each character alone.
  // SentencePiece itself replaces the longest match anywhere, so results differ for some text.
  std::string apply(std::string_view text) const;

 private:
  std::optional<std::string_view> replacement(std::string_view part) const;
  uint32_t unit(std::size_t at) const;
  [[noreturn]] void throw_damaged(std::string_view what) const;

  std::string origin_;
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace fastwan::text
