// Prompts to token ids.
//
//   const auto tokenizer = text::open_tokenizer(model / "tokenizer");
//   const int64_t max_length = text::model_max_length(model / "tokenizer", 512);
//   const text::TokenIds tokens = text::encode_padded(*tokenizer, prompt, max_length);
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "text/tokenizer_config.h"  // model_max_length

namespace fastwan::text {

struct TokenIds {
  std::vector<int64_t> ids;  // [max_length], padded at the end
  int64_t length = 0;        // before padding, end of sequence included
  bool was_truncated = false;
};

// Const calls may run at the same time.
class Tokenizer {
 public:
  Tokenizer() = default;
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // All ids, the end of sequence last; not truncated. InvalidInput not_utf8.
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  virtual int64_t pad_id() const = 0;
  virtual int64_t eos_id() const = 0;
};

// `tokenizer.json`, which is honoured to the letter; `spiece.model`, with a warning, only if that
// is missing. InvalidInput bad_json, bad_tokenizer (a component we do not know, damaged tables),
// lfs_pointer; IoError not_found.
std::unique_ptr<Tokenizer> open_tokenizer(const Path& folder);

// Too many ids are cut so that the end of sequence stays last.
TokenIds encode_padded(const Tokenizer& tokenizer, std::string_view text, int64_t max_length);

}  // namespace fastwan::text
