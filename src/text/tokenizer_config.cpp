#include "text/tokenizer_config.h"

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::text {
namespace {

// Longer limits mean that there is none; the longest context in use is far below.
constexpr double kLongestSaneLength = 1e6;

// Special tokens are plain strings in older files and AddedToken objects in newer ones.
std::string token_content(const Json& config, const char* key, const std::string& origin) {
  const Json& value = config.at(key);
  return value.is_object() ? json_get<std::string>(value, "content", origin)
                           : json_get<std::string>(config, key, origin);
}

std::vector<AddedToken> added_tokens_decoder(const Json& config, const std::string& origin) {
  std::vector<AddedToken> out;
  if (!config.contains("added_tokens_decoder")) {
    return out;
  }
  for (const auto& [key, token] : config.at("added_tokens_decoder").items()) {
    const std::optional<int64_t> id = parse_int(key);
    if (!id.has_value()) {
      throw InvalidInput(Code::kBadTokenizer,
                         str(origin, ": keys of added_tokens_decoder must be ids, got \"",
                             escape_control(key), "\""));
    }
    out.push_back(parse_added_token(token, *id, origin));
  }
  return out;
}

}  // namespace

TokenizerConfig read_tokenizer_config(const Path& folder) {
  const Path file = folder / "tokenizer_config.json";
  TokenizerConfig out;
  if (!std::filesystem::exists(file)) {
    return out;
  }
  const std::string origin = file.string();
  const Json config = parse_json(read_tokenizer_file(file), origin);
  try {
    if (config.contains("model_max_length") && !config.at("model_max_length").is_null()) {
      out.model_max_length = json_get<double>(config, "model_max_length", origin);
    }
    if (config.contains("pad_token") && !config.at("pad_token").is_null()) {
      out.pad_token = token_content(config, "pad_token", origin);
    }
    out.num_extra_ids = json_get_or<int64_t>(config, "extra_ids", 0, origin);
    out.added_tokens = added_tokens_decoder(config, origin);
  } catch (const InvalidInput& error) {
    throw InvalidInput(Code::kBadTokenizer, error.what());
  }
  return out;
}

std::string read_tokenizer_file(const Path& file) {
  std::string content = read_file(file);
  if (content.starts_with("version https://git-lfs")) {
    throw InvalidInput(
        Code::kLfsPointer,
        str(file.string(), " is a Git LFS pointer, not the file itself. Run `git lfs pull` there"));
  }
  return content;
}

int64_t model_max_length(const Path& folder, int64_t fallback) {
  const TokenizerConfig config = read_tokenizer_config(folder);
  const double length = config.model_max_length.value_or(static_cast<double>(fallback));
  if (length > kLongestSaneLength) {
    return fallback;
  }
  if (!(length >= 1)) {
    throw InvalidInput(Code::kBadTokenizer,
                       str((folder / "tokenizer_config.json").string(),
                           ": model_max_length must be at least 1, got ", length));
  }
  return static_cast<int64_t>(length);
}

}  // namespace fastwan::text
