#include "text/tokenizer.h"

#include <string>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "text/unigram.h"

namespace fastwan::text {
namespace {

const Path kFolder = "tests/golden/text/tokenizer";

Json base_json() {
  return read_json_file((kFolder / "tokenizer.json").string());
}

// A folder with this tokenizer.json and, if given, this tokenizer_config.json.
class Folder {
 public:
  explicit Folder(std::string_view tokenizer, std::string_view config = "") {
    write_durably(temp_.where() / "tokenizer.json", tokenizer);
    if (!config.empty()) {
      write_durably(temp_.where() / "tokenizer_config.json", config);
    }
  }
  const Path& where() const { return temp_.where(); }

 private:
  TempFolder temp_;
};

void expect_cases(const Tokenizer& tokenizer, const Json& cases, const std::string& name) {
  for (const Json& item : cases) {
    EXPECT_EQ(tokenizer.encode(item[0].get<std::string>()), item[1].get<std::vector<int64_t>>())
        << name << ", prompt: " << item[0];
  }
}

// Goldens write "=base" where the map of the base tokenizer belongs.
void restore_charsmap(Json& value, const Json& base) {
  for (auto& [key, member] : value.items()) {
    if (key == "precompiled_charsmap") {
      member = base["normalizer"]["normalizers"][0]["precompiled_charsmap"];
    } else if (member.is_structured()) {
      restore_charsmap(member, base);
    }
  }
}

void expect_error(Code code, const std::string& words, const std::function<void()>& act) {
  try {
    act();
    ADD_FAILURE() << "accepted; wanted an error with: " << words;
  } catch (const Failure& error) {
    EXPECT_EQ(std::string(info(error.code()).name), info(code).name) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

void expect_bad_tokenizer(const Json& tokenizer, const std::string& words) {
  const Folder folder(dump_json(tokenizer));
  expect_error(Code::kBadTokenizer, words, [&] { open_tokenizer(folder.where()); });
  expect_error(Code::kBadTokenizer, "tokenizer.json", [&] { open_tokenizer(folder.where()); });
}

TEST(Tokenizer, EqualsTheTokenizersLibraryOnEveryGolden) {
  const Json golden = read_json_file("tests/golden/text/vectors.json");
  ASSERT_GE(golden["cases"].size(), 300u);
  expect_cases(*open_tokenizer(kFolder), golden["cases"], "base");
}

TEST(Tokenizer, EqualsTheTokenizersLibraryWithOtherComponents) {
  const Json golden = read_json_file("tests/golden/text/vectors.json");
  const Json base = base_json();
  ASSERT_GE(golden["variants"].size(), 20u);
  for (const Json& variant : golden["variants"]) {
    Json tokenizer = base;
    for (const auto& [key, value] : variant["replace"].items()) {
      tokenizer[key] = value;
    }
    restore_charsmap(tokenizer, base);
    const Folder folder(dump_json(tokenizer));
    expect_cases(*open_tokenizer(folder.where()), variant["cases"],
                 variant["name"].get<std::string>());
  }
}

TEST(Tokenizer, KnowsPaddingAndEndOfSequence) {
  const auto tokenizer = open_tokenizer(kFolder);
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->encode(""), std::vector<int64_t>{1});
}

TEST(Tokenizer, ReadsItsPaddingTokenFromTheConfig) {
  const std::string json = dump_json(base_json());
  const Folder plain(json, R"({"pad_token": "<extra_id_0>"})");
  EXPECT_EQ(open_tokenizer(plain.where())->pad_id(), 3009);
  const Folder object(json, R"({"pad_token": {"content": "</s>", "special": true}})");
  EXPECT_EQ(open_tokenizer(object.where())->pad_id(), 1);
  const Folder missing(json, R"({"pad_token": "[PAD]"})");
  expect_error(Code::kBadTokenizer, "[PAD]", [&] { open_tokenizer(missing.where()); });
}

TEST(EncodePadded, PadsAndCutsWithTheEndOfSequenceLast) {
  const auto tokenizer = open_tokenizer(kFolder);
  const std::string prompt = "A cat walks on the grass";
  const std::vector<int64_t> ids = tokenizer->encode(prompt);
  const auto length = static_cast<int64_t>(ids.size());
  ASSERT_GE(length, 5);

  const TokenIds padded = encode_padded(*tokenizer, prompt, length + 2);
  EXPECT_EQ(padded.length, length);
  EXPECT_FALSE(padded.was_truncated);
  std::vector<int64_t> wanted = ids;
  wanted.insert(wanted.end(), 2, 0);
  EXPECT_EQ(padded.ids, wanted);

  const TokenIds exact = encode_padded(*tokenizer, prompt, length);
  EXPECT_EQ(exact.ids, ids);
  EXPECT_FALSE(exact.was_truncated);

  const TokenIds cut = encode_padded(*tokenizer, prompt, length - 1);
  wanted = ids;
  wanted.resize(static_cast<std::size_t>(length - 1));
  wanted.back() = 1;
  EXPECT_EQ(cut.ids, wanted);
  EXPECT_EQ(cut.length, length - 1);
  EXPECT_TRUE(cut.was_truncated);

  EXPECT_EQ(encode_padded(*tokenizer, prompt, 1).ids, std::vector<int64_t>{1});
  EXPECT_EQ(encode_padded(*tokenizer, "", 4).ids, (std::vector<int64_t>{1, 0, 0, 0}));
}

TEST(EncodePadded, KeepsFiveHundredAndElevenPiecesOfALongPrompt) {
  const auto tokenizer = open_tokenizer(kFolder);
  std::string prompt;
  for (int i = 0; i < 400; ++i) {
    prompt += "a cat walks ";
  }
  const TokenIds tokens = encode_padded(*tokenizer, prompt, 512);
  const std::vector<int64_t> all = tokenizer->encode(prompt);
  EXPECT_TRUE(tokens.was_truncated);
  EXPECT_EQ(tokens.length, 512);
  EXPECT_TRUE(std::equal(tokens.ids.begin(), tokens.ids.end() - 1, all.begin()));
  EXPECT_EQ(tokens.ids.back(), 1);
}

TEST(ModelMaxLength, TakesOnlySaneValues) {
  EXPECT_EQ(model_max_length(kFolder, 77), 512);
  EXPECT_EQ(model_max_length("tests/golden/text", 77), 77);  // no file
  const auto length = [](const std::string& config) {
    return model_max_length(Folder("{}", config).where(), 77);
  };
  EXPECT_EQ(length(R"({"model_max_length": 226})"), 226);
  EXPECT_EQ(length(R"({"model_max_length": 1000000000000000019884624838656})"), 77);
  EXPECT_EQ(length(R"({"model_max_length": 1e30})"), 77);
  EXPECT_EQ(length(R"({"model_max_length": null})"), 77);
  EXPECT_EQ(length(R"({"other": 1})"), 77);
  expect_error(Code::kBadTokenizer, "at least 1", [&] { length(R"({"model_max_length": 0})"); });
  expect_error(Code::kBadTokenizer, "model_max_length",
               [&] { length(R"({"model_max_length": "512"})"); });
  expect_error(Code::kBadJson, "tokenizer_config.json", [&] { length(R"({"model_max_)"); });
}

TEST(OpenTokenizer, NamesWhatIsMissing) {
  TempFolder empty;
  expect_error(Code::kNotFound, "tokenizer.json or spiece.model",
               [&] { open_tokenizer(empty.where()); });
}

TEST(OpenTokenizer, RefusesTruncatedAndForeignFiles) {
  const std::string json = dump_json(base_json());
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, json.size() / 2, json.size() - 2}) {
    const Folder folder(json.substr(0, size));
    expect_error(Code::kBadJson, "tokenizer.json", [&] { open_tokenizer(folder.where()); });
  }
  const Folder pointer("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
  expect_error(Code::kLfsPointer, "git lfs pull", [&] { open_tokenizer(pointer.where()); });
  expect_bad_tokenizer(Json::array(), "JSON object");
}

TEST(OpenTokenizer, NamesEveryComponentItDoesNotKnow) {
  const Json base = base_json();
  const auto with = [&](const char* key, const char* value) {
    Json changed = base;
    changed[key] = Json::parse(value);
    return changed;
  };
  expect_bad_tokenizer(with("version", R"("2.0")"), "2.0");
  expect_bad_tokenizer(with("model", R"({"type": "BPE", "vocab": {}})"), "BPE");
  expect_bad_tokenizer(with("normalizer", R"({"type": "BertNormalizer"})"), "BertNormalizer");
  expect_bad_tokenizer(with("normalizer", R"({"type": "Sequence", "normalizers": 3})"),
                       "normalizers");
  expect_bad_tokenizer(
      with("normalizer", R"({"type": "Replace", "pattern": {"Regex": "a|b"}, "content": ""})"),
      "a|b");
  expect_bad_tokenizer(with("pre_tokenizer", R"({"type": "ByteLevel"})"), "ByteLevel");
  expect_bad_tokenizer(with("pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})"),
                       "one character");
  expect_bad_tokenizer(
      with("pre_tokenizer",
           R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})"),
      "last");
  expect_bad_tokenizer(with("post_processor", R"({"type": "RobertaProcessing"})"),
                       "RobertaProcessing");
  expect_bad_tokenizer(with("post_processor", "null"), "type");
  expect_bad_tokenizer(with("post_processor", R"({"type": "TemplateProcessing", "single":
            [{"Sequence": {"id": "A"}}], "special_tokens": {}})"),
                       "template");
}

TEST(OpenTokenizer, NamesDamagedTables) {
  const Json base = base_json();
  Json changed = base;
  changed["model"].erase("vocab");
  expect_bad_tokenizer(changed, "vocab");
  changed["model"]["vocab"] = Json::array();
  expect_bad_tokenizer(changed, "vocab");
  changed["model"]["vocab"] = Json::parse(R"([["a", 0], ["b", "x"]])");
  expect_bad_tokenizer(changed, "vocab[1]");
  changed["model"]["vocab"] = 5;
  expect_bad_tokenizer(changed, "vocab");

  changed = base;
  changed["model"]["unk_id"] = 100000;
  expect_bad_tokenizer(changed, "unk_id");
  changed["model"]["unk_id"] = nullptr;
  expect_bad_tokenizer(changed, "unk_id");

  changed = base;
  changed["added_tokens"][0]["id"] = 7;  // the vocabulary says 0
  expect_bad_tokenizer(changed, "<pad>");
  changed["added_tokens"] = 1;
  expect_bad_tokenizer(changed, "added_tokens");
  changed["added_tokens"] = Json::parse(R"([{"content": "x"}])");
  expect_bad_tokenizer(changed, "id");
}

TEST(OpenTokenizer, NamesADamagedCharsmap) {
  const Json base = base_json();
  const std::string map =
      base["normalizer"]["normalizers"][0]["precompiled_charsmap"].get<std::string>();
  for (const std::string& damaged :
       {std::string(), std::string("AAAA"), std::string("%%%%"), map.substr(0, map.size() / 8 * 4),
        map.substr(0, map.size() - 1), std::string("/////w==")}) {
    Json changed = base;
    changed["normalizer"]["normalizers"][0]["precompiled_charsmap"] = damaged;
    expect_bad_tokenizer(changed, "precompiled_charsmap");
  }
  // A trie whose one unit points far outside: found when it is used.
  Json changed = base;
  changed["normalizer"]["normalizers"][0]["precompiled_charsmap"] = "BAAAAAD8//8=";
  const Folder folder(dump_json(changed));
  const auto tokenizer = open_tokenizer(folder.where());
  expect_error(Code::kBadTokenizer, "points outside", [&] { tokenizer->encode("a"); });
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto tokenizer = open_tokenizer(kFolder);
  expect_error(Code::kNotUtf8, "at byte 1", [&] { tokenizer->encode("a\xFF"); });
}

class Spiece : public ::testing::Test {
 protected:
  Spiece() { copy("spiece.model"); }
  void copy(const char* name) {
    std::filesystem::copy_file(kFolder / name, folder_.where() / name);
  }
  const Path& where() const { return folder_.where(); }

 private:
  TempFolder folder_;
};

TEST_F(Spiece, AgreesWithTokenizerJsonOnPlainText) {
  copy("tokenizer_config.json");
  const auto from_model = open_tokenizer(where());
  const auto from_json = open_tokenizer(kFolder);
  for (const char* text :
       {"", "A cat walks on the grass", "two  spaces ", "a</s>b", "<extra_id_0> x <extra_id_9>",
        "\u4E00\u53EA\u732B", "\uFF46\uFF55\uFF4C\uFF4C", "caf\u00E9", "\U00013000 unknown"}) {
    EXPECT_EQ(from_model->encode(text), from_json->encode(text)) << text;
  }
  EXPECT_EQ(from_model->pad_id(), 0);
  EXPECT_EQ(from_model->eos_id(), 1);
}

TEST_F(Spiece, NumbersExtraIdsBackwardsWithoutAListOfThem) {
  write_durably(where() / "tokenizer_config.json", R"({"extra_ids": 10})");
  const auto tokenizer = open_tokenizer(where());
  EXPECT_EQ(tokenizer->encode("<extra_id_0>"), (std::vector<int64_t>{3009, 1}));
  EXPECT_EQ(tokenizer->encode("<extra_id_9>"), (std::vector<int64_t>{3000, 1}));
  EXPECT_EQ(tokenizer->encode("<pad></s>"), (std::vector<int64_t>{0, 1, 1}));
}

TEST_F(Spiece, RefusesDamagedModels) {
  const std::string model = read_file(kFolder / "spiece.model");
  for (const std::size_t size : {std::size_t{0}, std::size_t{10}, model.size() / 2}) {
    write_durably(where() / "spiece.model", model.substr(0, size));
    expect_error(Code::kBadTokenizer, "spiece.model", [&] { open_tokenizer(where()); });
  }
  expect_error(Code::kNotUtf8, "at byte 0", [&] {
    write_durably(where() / "spiece.model", model);
    open_tokenizer(where())->encode("\xFF");
  });
}

TEST(Unigram, OfEqualPathsTheEarliestStartWins) {
  const Json model = Json::parse(R"({"type": "Unigram", "unk_id": 0, "vocab":
      [["?", 0], ["a", -1], ["aa", -2], ["aaa", -3]]})");
  const Unigram unigram = Unigram::parse(model, "test");
  std::vector<int64_t> ids;
  unigram.encode("aaa", ids);
  EXPECT_EQ(ids, std::vector<int64_t>{3});
}

TEST(Unigram, AnUnknownCostsTheLowestScoreMinusTen) {
  // "ab" at -20, or "a" and an unknown at -20 - 10: the unknown wins from "a" above 10 on.
  const auto ids_with = [](double score_of_a) {
    Json model = Json::parse(R"({"type": "Unigram", "unk_id": 0})");
    model["vocab"] = Json::array(
        {Json::array({"?", 0.0}), Json::array({"a", score_of_a}), Json::array({"ab", -20.0})});
    std::vector<int64_t> ids;
    Unigram::parse(model, "test").encode("ab", ids);
    return ids;
  };
  EXPECT_EQ(ids_with(9.5), std::vector<int64_t>{2});
  EXPECT_EQ(ids_with(10.0), std::vector<int64_t>{2});
  EXPECT_EQ(ids_with(10.5), (std::vector<int64_t>{1, 0}));
}

}  // namespace
}  // namespace fastwan::text
