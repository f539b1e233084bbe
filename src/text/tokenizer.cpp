#include "text/tokenizer.h"

#include <algorithm>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_spiece.h"

namespace fastwan::text {

std::unique_ptr<Tokenizer> open_tokenizer(const Path& folder) {
  const Path json = folder / "tokenizer.json";
  if (std::filesystem::exists(json)) {
    return open_tokenizer_json(json);
  }
  const Path spiece = folder / "spiece.model";
  if (std::filesystem::exists(spiece)) {
    log::warn(
        str(json.string(), " is missing: using spiece.model, whose ids differ for some text"));
    return open_tokenizer_spiece(spiece);
  }
  throw IoError(Code::kNotFound, str(folder.string(),
                                     ": no tokenizer here, wanted tokenizer.json or spiece.model. "
                                     "Is the model folder complete?"));
}

TokenIds encode_padded(const Tokenizer& tokenizer, std::string_view text, int64_t max_length) {
  invariant(max_length >= 1, "the end of sequence fits");
  TokenIds out{.ids = tokenizer.encode(text)};
  const auto wanted = static_cast<std::size_t>(max_length);
  if (out.ids.size() > wanted) {
    out.ids.resize(wanted);
    out.ids.back() = tokenizer.eos_id();
    out.was_truncated = true;
  }
  out.length = static_cast<int64_t>(out.ids.size());
  out.ids.resize(wanted, tokenizer.pad_id());
  return out;
}

}  // namespace fastwan::text
