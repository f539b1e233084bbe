// What we read of tokenizer_config.json.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "text/added_tokens.h"

namespace fastwan::text {

struct TokenizerConfig {
  std::optional<double> model_max_length;
  std::string pad_token = "<pad>";
  int64_t num_extra_ids = 0;             // <extra_id_0> and so on, after the model's own pieces
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder
};

// A missing file has the defaults. InvalidInput bad_json, bad_tokenizer.
TokenizerConfig read_tokenizer_config(const Path& folder);

// `model_max_length` of tokenizer_config.json. `fallback` where the file or the key is missing, and
// where the number only means "no limit" (transformers writes 1e30).
int64_t model_max_length(const Path& folder, int64_t fallback);

// The whole file; InvalidInput lfs_pointer if it is only Git LFS's note of it.
std::string read_tokenizer_file(const Path& file);

}  // namespace fastwan::text
