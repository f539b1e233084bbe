#include "text/tokenizer_spiece.h"

#include <string>
#include <utility>

#include <sentencepiece_processor.h>

#include "base/check.h"
#include "base/text.h"
#include "text/added_tokens.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

class SpieceTokenizer : public Tokenizer {
 public:
  SpieceTokenizer(std::unique_ptr<sentencepiece::SentencePieceProcessor> model,
                  std::vector<AddedToken> added_tokens,
                  int64_t pad_id)
      : model_(std::move(model)), added_tokens_(std::move(added_tokens)), pad_id_(pad_id) {}

  std::vector<int64_t> encode(std::string_view text) const override {
    require_utf8(text, "the prompt");
    std::vector<int64_t> ids;
    for (const AddedTokenFinder::Part& part : added_tokens_.split(text)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      std::vector<int> pieces;
      const auto status = model_->Encode(text.substr(part.begin, part.end - part.begin), &pieces);
      invariant(status.ok(), "SentencePiece encodes any UTF-8 text");
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    }
    ids.push_back(eos_id());
    return ids;
  }

  int64_t pad_id() const override { return pad_id_; }
  int64_t eos_id() const override { return model_->eos_id(); }

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> model_;
  AddedTokenFinder added_tokens_;
  int64_t pad_id_;
};

// The model's control pieces (</s>, <pad>) and its unknown piece, in front of the extra ids, which
// T5 numbers backwards from the end: <extra_id_0> is the last.
std::vector<AddedToken> default_added_tokens(const sentencepiece::SentencePieceProcessor& model,
                                             int64_t num_extra_ids) {
  std::vector<AddedToken> out;
  const int num_pieces = model.GetPieceSize();
  for (int id = 0; id < num_pieces; ++id) {
    if (model.IsControl(id) || model.IsUnknown(id)) {
      out.push_back({.id = id, .content = model.IdToPiece(id), .is_normalized = false});
    }
  }
  for (int64_t i = 0; i < num_extra_ids; ++i) {
    out.push_back({.id = num_pieces + num_extra_ids - 1 - i,
                   .content = str("<extra_id_", i, ">"),
                   .is_normalized = false});
  }
  return out;
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer_spiece(const Path& file) {
  const std::string content = read_tokenizer_file(file);
  auto model = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = model->LoadFromSerializedProto(content);
  if (!status.ok()) {
    throw InvalidInput(Code::kBadTokenizer, str(file.string(), ": not a SentencePiece model: ",
                                                escape_control(status.error_message())));
  }
  if (model->eos_id() < 0) {
    throw InvalidInput(Code::kBadTokenizer,
                       str(file.string(), ": the model has no end-of-sequence piece"));
  }
  TokenizerConfig config = read_tokenizer_config(file.parent_path());
  std::vector<AddedToken> added_tokens = std::move(config.added_tokens);
  if (added_tokens.empty()) {
    added_tokens = default_added_tokens(*model, config.num_extra_ids);
  }
  int64_t pad_id = model->pad_id();
  for (const AddedToken& token : added_tokens) {
    pad_id = token.content == config.pad_token ? token.id : pad_id;
  }
  if (pad_id < 0) {
    throw InvalidInput(Code::kBadTokenizer,
                       str(file.string(), ": the padding token \"",
                           escape_control(config.pad_token), "\" is not in it"));
  }
  return std::make_unique<SpieceTokenizer>(std::move(model), std::move(added_tokens), pad_id);
}

}  // namespace fastwan::text
