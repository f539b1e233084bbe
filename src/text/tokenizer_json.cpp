#include "text/tokenizer_json.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "text/added_tokens.h"
#include "text/normalizers.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace fastwan::text {
namespace {

// Ids around those of the text; the end of sequence is the last.
struct Template {
  std::vector<int64_t> before;
  std::vector<int64_t> after;
};

struct Parts {
  std::vector<Normalize> normalizers;
  std::vector<Split> splits;
  Unigram model;
  Template around;
  std::vector<AddedToken> raw_tokens;         // found before normalisation
  std::vector<AddedToken> normalized_tokens;  // and after it
  int64_t pad_id;
};

class JsonTokenizer : public Tokenizer {
 public:
  explicit JsonTokenizer(Parts parts)
      : normalizers_(std::move(parts.normalizers)),
        splits_(std::move(parts.splits)),
        model_(std::move(parts.model)),
        around_(std::move(parts.around)),
        raw_tokens_(std::move(parts.raw_tokens)),
        normalized_tokens_(std::move(parts.normalized_tokens)),
        pad_id_(parts.pad_id) {}

  std::vector<int64_t> encode(std::string_view text) const override {
    require_utf8(text, "the prompt");
    std::vector<int64_t> ids = around_.before;
    for_each_part(raw_tokens_, {.text = std::string(text), .is_at_start = true}, ids,
                  [&](Segment segment) {
                    for (const Normalize& normalize : normalizers_) {
                      normalize(segment);
                    }
                    for_each_part(normalized_tokens_, segment, ids,
                                  [&](const Segment& plain) { encode_plain(plain, ids); });
                  });
    ids.insert(ids.end(), around_.after.begin(), around_.after.end());
    return ids;
  }

  int64_t pad_id() const override { return pad_id_; }
  int64_t eos_id() const override { return around_.after.back(); }

 private:
  // Appends the ids of added tokens, hands the text between them on.
  template <class Take>
  static void for_each_part(const AddedTokenFinder& finder,
                            const Segment& segment,
                            std::vector<int64_t>& ids,
                            const Take& take) {
    for (const AddedTokenFinder::Part& part : finder.split(segment.text)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        take(Segment{.text = segment.text.substr(part.begin, part.end - part.begin),
                     .is_at_start = segment.is_at_start && part.begin == 0});
      }
    }
  }

  void encode_plain(const Segment& segment, std::vector<int64_t>& ids) const {
    std::vector<Segment> words = {segment};
    for (const Split& split : splits_) {
      std::vector<Segment> next;
      for (const Segment& word : words) {
        for (Segment& part : split(word)) {
          next.push_back(std::move(part));
        }
      }
      words = std::move(next);
    }
    for (const Segment& word : words) {
      model_.encode(word.text, ids);
    }
  }

  std::vector<Normalize> normalizers_;
  std::vector<Split> splits_;
  Unigram model_;
  Template around_;
  AddedTokenFinder raw_tokens_;
  AddedTokenFinder normalized_tokens_;
  int64_t pad_id_;
};

std::vector<int64_t> special_ids(const Json& post_processor,
                                 const std::string& name,
                                 const std::string& origin) {
  const Json specials = json_get<Json>(post_processor, "special_tokens", origin);
  const Json special = json_get<Json>(specials, name.c_str(), origin);
  return json_get<std::vector<int64_t>>(special, "ids", origin);
}

// $A with special tokens around it. Without an end of sequence the encoder would see text it was
// never trained on, so that is an error and not a choice.
Template parse_template(const Json& post_processor, const std::string& origin) {
  const std::string type = json_get<std::string>(post_processor, "type", origin);
  if (type != "TemplateProcessing") {
    throw_unsupported(origin, "the post_processor", type, "TemplateProcessing");
  }
  Template out;
  int num_sequences = 0;
  for (const Json& item : json_get<Json>(post_processor, "single", origin)) {
    if (item.is_object() && item.contains("Sequence")) {
      ++num_sequences;
      continue;
    }
    const Json special = json_get<Json>(item, "SpecialToken", origin);
    const std::string name = json_get<std::string>(special, "id", origin);
    std::vector<int64_t>& to = num_sequences == 0 ? out.before : out.after;
    for (const int64_t id : special_ids(post_processor, name, origin)) {
      to.push_back(id);
    }
  }
  if (num_sequences != 1 || out.after.size() != 1) {
    throw_unsupported(origin, "the template of the post_processor",
                      str(num_sequences, " texts and ", out.after.size(), " tokens after them"),
                      "one text and the end of sequence after it");
  }
  return out;
}

void check_id(const AddedToken& token, const Unigram& model, const std::string& origin) {
  const int64_t known = model.find(token.content);
  if (token.content.empty() || token.id < 0 || (known >= 0 && known != token.id)) {
    throw InvalidInput(
        Code::kBadTokenizer,
        str(origin, ": added token \"", escape_control(token.content), "\" has id ", token.id,
            known >= 0 ? str(", but the vocabulary says ", known) : std::string()));
  }
}

void parse_added_tokens(const Json& root, const std::string& origin, Parts& parts) {
  if (!root.contains("added_tokens") || root.at("added_tokens").is_null()) {
    return;
  }
  const Json& tokens = root.at("added_tokens");
  if (!tokens.is_array()) {
    throw_json_type(origin, "added_tokens", tokens);
  }
  for (const Json& item : tokens) {
    AddedToken token = parse_added_token(item, json_get<int64_t>(item, "id", origin), origin);
    check_id(token, parts.model, origin);
    if (!token.is_normalized) {
      parts.raw_tokens.push_back(std::move(token));
      continue;
    }
    Segment content{.text = token.content};
    for (const Normalize& normalize : parts.normalizers) {
      normalize(content);
    }
    token.content = content.text;
    parts.normalized_tokens.push_back(std::move(token));
  }
}

int64_t find_token(const Parts& parts, const std::string& content, const std::string& origin) {
  for (const auto* tokens : {&parts.raw_tokens, &parts.normalized_tokens}) {
    for (const AddedToken& token : *tokens) {
      if (token.content == content) {
        return token.id;
      }
    }
  }
  const int64_t id = parts.model.find(content);
  if (id < 0) {
    throw InvalidInput(Code::kBadTokenizer, str(origin, ": the padding token \"",
                                                escape_control(content), "\" is not in it"));
  }
  return id;
}

const Json& member(const Json& root, const char* key) {
  static const Json kNull = nullptr;
  return root.contains(key) ? root.at(key) : kNull;
}

Parts parse_parts(const Json& root, const std::string& pad_token, const std::string& origin) {
  if (!root.is_object()) {
    throw InvalidInput(Code::kBadTokenizer,
                       str(origin, ": must hold a JSON object, got ", root.type_name()));
  }
  const std::string version = json_get_or<std::string>(root, "version", "1.0", origin);
  if (version != "1.0") {
    throw_unsupported(origin, "the version", version, "1.0");
  }
  Parts parts{.normalizers = parse_normalizer(member(root, "normalizer"), origin),
              .splits = parse_pre_tokenizer(member(root, "pre_tokenizer"), origin),
              .model = Unigram::parse(member(root, "model"), origin),
              .around = parse_template(member(root, "post_processor"), origin),
              .pad_id = 0};
  parse_added_tokens(root, origin, parts);
  parts.pad_id = find_token(parts, pad_token, origin);
  return parts;
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer_json(const Path& file) {
  const std::string origin = file.string();
  const Json root = parse_json(read_tokenizer_file(file), origin);
  const TokenizerConfig config = read_tokenizer_config(file.parent_path());
  try {
    return std::make_unique<JsonTokenizer>(parse_parts(root, config.pad_token, origin));
  } catch (const InvalidInput& error) {  // good JSON, but not a tokenizer
    throw InvalidInput(Code::kBadTokenizer, error.what());
  }
}

}  // namespace fastwan::text
