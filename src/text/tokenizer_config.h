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

// The whole file; InvalidInput lfs_pointer if it is only Git LFS's note of it.
std::string read_tokenizer_file(const Path& file);

}  // namespace fastwan::text
