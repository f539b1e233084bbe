// The normalizers and pre-tokenizers of tokenizer.json.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "text/segment.h"

namespace fastwan::text {

// Steps in order; null is none. InvalidInput bad_tokenizer, naming `origin`, for a type or an
// option that is not supported.
std::vector<Normalize> parse_normalizer(const Json& normalizer, const std::string& origin);
std::vector<Split> parse_pre_tokenizer(const Json& pre_tokenizer, const std::string& origin);

[[noreturn]] void throw_unsupported(const std::string& origin,
                                    const std::string& what,
                                    const std::string& got,
                                    const std::string& supported);

}  // namespace fastwan::text
