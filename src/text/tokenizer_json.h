// tokenizer.json, the file of the tokenizers library: unigram models as T5 and UMT5 have them.
//
//   prompt -> added tokens found on raw text -> normalizer -> added tokens found on normalised text
//          -> pre-tokenizer -> unigram model -> template ($A </s>)
//
// The file's `truncation`, `padding` and `decoder` play no part: the caller sets the length.
#pragma once

#include <memory>

#include "text/tokenizer.h"

namespace fastwan::text {

std::unique_ptr<Tokenizer> open_tokenizer_json(const Path& file);

}  // namespace fastwan::text
