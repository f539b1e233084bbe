// spiece.model through the SentencePiece library, for folders without tokenizer.json.
#pragma once

#include <memory>

#include "text/tokenizer.h"

namespace fastwan::text {

std::unique_ptr<Tokenizer> open_tokenizer_spiece(const Path& file);

}  // namespace fastwan::text
