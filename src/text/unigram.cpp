#include "text/unigram.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "text/normalizers.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

constexpr double kUnknownPenalty = 10.0;

// The best way to reach one end position.
struct Arrival {
  std::size_t from = 0;
  double score = 0.0;
  int64_t id = 0;
  bool is_reached = false;

  void offer(std::size_t candidate_from, double candidate_score, int64_t candidate_id) {
    if (!is_reached || candidate_score > score) {
      *this = {candidate_from, candidate_score, candidate_id, true};
    }
  }
};

std::string byte_piece(char byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  const auto value = static_cast<unsigned char>(byte);
  return str("<0x", kDigits[value >> 4], kDigits[value & 15], ">");
}

}  // namespace

Unigram::Vocabulary Unigram::parse_vocabulary(const Json& model, const std::string& origin) {
  const Json* const vocab = model.contains("vocab") ? &model.at("vocab") : nullptr;
  if (vocab == nullptr || !vocab->is_array() || vocab->empty()) {
    throw InvalidInput(Code::kBadTokenizer,
                       str(origin, ": model.vocab must be a list of [piece, score], got ",
                           vocab == nullptr ? "nothing"
                           : vocab->empty() ? "an empty one"
                                            : vocab->type_name()));
  }
  Vocabulary out;
  out.pieces.reserve(vocab->size());
  out.scores.reserve(vocab->size());
  for (const Json& entry : *vocab) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      throw InvalidInput(
          Code::kBadTokenizer,
          str(origin, ": model.vocab[", out.pieces.size(), "] must be [piece, score], got ",
              escape_control(entry.dump(-1, ' ', false, Json::error_handler_t::replace))
                  .substr(0, 80)));
    }
    out.pieces.push_back(entry[0].get<std::string>());
    out.scores.push_back(entry[1].get<double>());
  }
  return out;
}

Unigram Unigram::parse(const Json& model, const std::string& origin) {
  const std::string type = json_get<std::string>(model, "type", origin);
  if (type != "Unigram") {
    throw_unsupported(origin, "the model", type, "Unigram");
  }
  Vocabulary vocabulary = parse_vocabulary(model, origin);
  const int64_t unknown_id = json_get<int64_t>(model, "unk_id", origin);
  if (unknown_id < 0 || unknown_id >= static_cast<int64_t>(vocabulary.pieces.size())) {
    throw InvalidInput(Code::kBadTokenizer,
                       str(origin, ": model.unk_id must be below the ", vocabulary.pieces.size(),
                           " pieces, got ", unknown_id));
  }
  return Unigram(std::move(vocabulary), unknown_id,
                 json_get_or(model, "byte_fallback", false, origin));
}

Unigram::Unigram(Vocabulary vocabulary, int64_t unknown_id, bool has_byte_fallback)
    : trie_(vocabulary.pieces),
      scores_(std::move(vocabulary.scores)),
      unknown_id_(unknown_id),
      unknown_score_(*std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty),
      has_byte_fallback_(has_byte_fallback) {}

void Unigram::append_ids(std::string_view piece, std::vector<int64_t>& ids) const {
  if (const int64_t id = trie_.find(piece); id >= 0) {
    ids.push_back(id);
    return;
  }
  if (has_byte_fallback_) {
    std::vector<int64_t> bytes;
    for (const char byte : piece) {
      bytes.push_back(trie_.find(byte_piece(byte)));
    }
    if (std::find(bytes.begin(), bytes.end(), -1) == bytes.end()) {
      ids.insert(ids.end(), bytes.begin(), bytes.end());
      return;
    }
  }
  ids.push_back(unknown_id_);
}

void Unigram::encode(std::string_view word, std::vector<int64_t>& ids) const {
  std::vector<Arrival> arrivals(word.size() + 1);  // by end position
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t character = utf8_length(word[at]);
    const double so_far = arrivals[at].score;
    bool covers_character = false;
    trie_.prefixes(word.substr(at), [&](std::size_t length, int32_t id) {
      arrivals[at + length].offer(at, so_far + scores_[static_cast<std::size_t>(id)], id);
      covers_character = covers_character || length == character;
    });
    if (!covers_character) {
      arrivals[at + character].offer(at, so_far + unknown_score_, unknown_id_);
    }
    at += character;
  }

  std::vector<std::string_view> pieces;  // backwards
  bool last_is_unknown = false;
  for (std::size_t end = word.size(); end > 0;) {
    const Arrival& arrival = arrivals[end];
    const std::size_t begin = arrival.from;
    const bool is_unknown = arrival.id == unknown_id_;
    if (is_unknown && last_is_unknown) {
      pieces.back() = word.substr(begin, end - begin + pieces.back().size());
    } else {
      pieces.push_back(word.substr(begin, end - begin));
    }
    last_is_unknown = is_unknown;
    end = begin;
  }
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    append_ids(*piece, ids);
  }
}

}  // namespace fastwan::text
