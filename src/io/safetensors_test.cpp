#include "io/safetensors.h"

#include <cstring>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::io {
namespace {

// Header text and data as a file; the length word is that of the text unless given.
std::string file_of(const std::string& header,
                    const std::string& data,
                    std::optional<uint64_t> length = {}) {
  const uint64_t word = length.value_or(header.size());
  std::string out(8, '\0');
  std::memcpy(out.data(), &word, 8);
  return out + header + data;
}

std::string entry(const std::string& name,
                  const std::string& dtype,
                  const std::string& shape,
                  const std::string& offsets) {
  return str("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
             ",\"data_offsets\":", offsets, "}");
}

const std::string kGood =
    "{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "BF16", "[1,2]", "[8,12]") + "}";
const std::string kGoodData(12, '\1');

struct Bad {
  const char* why;
  std::string bytes;
  Code code;
  const char* part;  // of the message
};

std::vector<Bad> bad_files() {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return "{" + entry("w", dtype, shape, offsets) + "}";
  };
  const auto two = [](const std::string& first, const std::string& second) {
    return "{" + entry("v", "F32", "[2]", first) + "," + entry("w", "F32", "[2]", second) + "}";
  };
  const std::string eight(8, 'x');
  const std::string sixteen(16, 'x');
  std::vector<Bad> bad = {
      {"empty file", "", Code::kBadHeader, "0 bytes"},
      {"seven bytes", std::string(7, '\0'), Code::kBadHeader, "7 bytes"},
      {"no header", file_of("", ""), Code::kBadHeader, "start with {"},
      {"header longer than the file", file_of("{}", "", 3), Code::kBadHeader, "header of 3"},
      {"huge header", file_of("{}", "", 100'000'001), Code::kBadHeader, "100000001"},
      {"length word of all ones", file_of("{}", "", UINT64_MAX), Code::kBadHeader,
       "18446744073709551615"},
      {"all zero", std::string(64, '\0'), Code::kBadHeader, "start with {"},
      {"leading space", file_of(" {}", ""), Code::kBadHeader, "start with {"},
      {"array", file_of("[]", ""), Code::kBadHeader, "start with {"},
      {"NUL in the header", file_of(std::string("{}\0", 3), ""), Code::kBadHeader, "NUL"},
      {"text behind the object", file_of("{}x", ""), Code::kBadJson, "header"},
      {"two objects", file_of("{}{}", ""), Code::kBadJson, "header"},
      {"cut off object", file_of("{\"a\":", ""), Code::kBadJson, "header"},
      {"single quotes", file_of("{'a':1}", ""), Code::kBadJson, "header"},
      {"not UTF-8", file_of("{\"\xff\":1}", ""), Code::kNotUtf8, "UTF-8"},
      {"surrogate in UTF-8", file_of("{\"\xed\xa0\x80\":1}", ""), Code::kNotUtf8, "UTF-8"},
      {"deep nesting", file_of("{\"a\":" + std::string(400'000, '['), ""), Code::kBadJson,
       "deeper"},
      {"duplicate tensor",
       file_of(
           "{" + entry("w", "F32", "[2]", "[0,8]") + "," + entry("w", "F32", "[2]", "[0,8]") + "}",
           eight),
       Code::kDuplicateKey, "\"w\""},
      {"duplicate key in an entry",
       file_of(R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight),
       Code::kDuplicateKey, "dtype"},
      {"entry is a number", file_of(R"({"w":1})", ""), Code::kBadHeader, "\"w\""},
      {"entry without shape", file_of(R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", eight),
       Code::kBadHeader, "\"w\""},
      {"entry with more",
       file_of(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", eight),
       Code::kBadHeader, "exactly"},
      {"metadata of a number", file_of(R"({"__metadata__":{"a":1}})", ""), Code::kBadHeader,
       "__metadata__"},
      {"metadata as a list", file_of(R"({"__metadata__":["a"]})", ""), Code::kBadHeader,
       "__metadata__"},
      {"unknown dtype", file_of(one("F8_E4M3", "[8]", "[0,8]"), eight), Code::kUnsupportedDtype,
       "F8_E4M3"},
      {"dtype in lower case", file_of(one("f32", "[2]", "[0,8]"), eight), Code::kUnsupportedDtype,
       "f32"},
      {"dtype is a number", file_of(R"({"w":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})", eight),
       Code::kUnsupportedDtype, "\"w\""},
      {"shape is a number", file_of(one("F32", "2", "[0,8]"), eight), Code::kBadShape, "shape"},
      {"nine dimensions", file_of(one("U8", "[1,1,1,1,1,1,1,1,8]", "[0,8]"), eight),
       Code::kBadShape, "at most 8"},
      {"negative dimension", file_of(one("F32", "[-2]", "[0,8]"), eight), Code::kBadShape, "-2"},
      {"fraction", file_of(one("F32", "[2.5]", "[0,8]"), eight), Code::kBadShape, "2.5"},
      {"exponent", file_of(one("F32", "[2e0]", "[0,8]"), eight), Code::kBadShape, "2.0"},
      {"dimension as text", file_of(one("F32", "[\"2\"]", "[0,8]"), eight), Code::kBadShape, "2"},
      {"dimension true", file_of(one("F32", "[true]", "[0,8]"), eight), Code::kBadShape, "true"},
      {"dimension of 2^63", file_of(one("U8", "[9223372036854775808]", "[0,8]"), eight),
       Code::kBadShape, "9223372036854775808"},
      {"product beyond 2^64", file_of(one("U8", "[4294967296,4294967296]", "[0,0]"), ""),
       Code::kBadShape, "2^63"},
      {"product times size beyond 2^63", file_of(one("F64", "[4611686018427387904]", "[0,0]"), ""),
       Code::kBadShape, "2^63"},
      {"overflow hidden by a zero", file_of(one("U8", "[4294967296,4294967296,0]", "[0,0]"), ""),
       Code::kBadShape, "2^63"},
      {"one offset", file_of(one("F32", "[2]", "[0]"), eight), Code::kBadOffsets, "[begin, end]"},
      {"three offsets", file_of(one("F32", "[2]", "[0,8,8]"), eight), Code::kBadOffsets,
       "[begin, end]"},
      {"offsets as text", file_of(one("F32", "[2]", "\"08\""), eight), Code::kBadOffsets,
       "[begin, end]"},
      {"negative offset", file_of(one("F32", "[2]", "[-8,0]"), eight), Code::kBadOffsets, "-8"},
      {"fractional offset", file_of(one("F32", "[2]", "[0,8.5]"), eight), Code::kBadOffsets, "8.5"},
      {"offsets reversed", file_of(one("F32", "[2]", "[8,0]"), eight), Code::kBadOffsets, "behind"},
      {"out of bounds", file_of(one("F32", "[4]", "[0,16]"), eight), Code::kBadOffsets,
       "past the file's 8"},
      {"truncated data", file_of(kGood, kGoodData.substr(1)), Code::kBadOffsets, "complete?"},
      {"end of 2^63", file_of(one("F32", "[2]", "[0,9223372036854775808]"), eight),
       Code::kBadOffsets, "9223372036854775808"},
      {"shape smaller than the data", file_of(one("F32", "[1]", "[0,8]"), eight),
       Code::kSizeMismatch, "need 4 bytes"},
      {"shape larger than the data", file_of(one("F32", "[3]", "[0,8]"), eight),
       Code::kSizeMismatch, "need 12 bytes"},
      {"scalar of no bytes", file_of(one("F32", "[]", "[0,0]"), ""), Code::kSizeMismatch,
       "need 4 bytes"},
      {"overlap", file_of(two("[0,8]", "[4,12]"), std::string(12, 'x')), Code::kBadOffsets,
       "overlap"},
      {"the same bytes twice", file_of(two("[0,8]", "[0,8]"), eight), Code::kBadOffsets, "overlap"},
      {"hole", file_of(two("[0,8]", "[12,20]"), std::string(20, 'x')), Code::kBadOffsets, "hole"},
      {"hole at the start", file_of(one("F32", "[2]", "[8,16]"), sixteen), Code::kBadOffsets,
       "hole"},
      {"bytes behind the last tensor", file_of(one("F32", "[2]", "[0,8]"), sixteen),
       Code::kBadOffsets, "end at byte 8 of 16"},
      {"data without tensors", file_of("{}", eight), Code::kBadOffsets, "end at byte 0 of 8"},
      {"name of 513 bytes",
       file_of("{" + entry(std::string(513, 'n'), "F32", "[2]", "[0,8]") + "}", eight),
       Code::kNameTooLong, "513"},
      {"control byte in a name",
       file_of("{" + entry("w\\u001b[31m", "F32", "[2]", "[0,8]") + "}", eight), Code::kBadHeader,
       "control"},
      {"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
       Code::kLfsPointer, "git lfs pull"},
      {"web page", "<!DOCTYPE html><html>Not found</html>", Code::kLooksLikeHtml, "web page"},
      {"web page after blank lines", "\n\n  <html><body>429</body></html>", Code::kLooksLikeHtml,
       "web page"},
      {"pickle", std::string("PK\3\4") + std::string(60, 'x'), Code::kBadHeader, "safetensors"},
  };
  return bad;
}

TEST(Safetensors, EveryMalformedFileIsRefusedWithItsCodeAndTheFilesName) {
  TempFolder folder;
  const Path file = folder.where() / "bad.safetensors";
  const std::vector<Bad> cases = bad_files();
  EXPECT_GE(cases.size(), 60u);
  for (const Bad& bad : cases) {
    std::ofstream(file, std::ios::binary) << bad.bytes;
    try {
      SafetensorsFile::open(file);
      ADD_FAILURE() << bad.why << " was accepted";
    } catch (const InvalidInput& error) {
      const std::string what = error.what();
      EXPECT_EQ(error.code(), bad.code) << bad.why << ": " << what;
      EXPECT_NE(what.find("bad.safetensors"), std::string::npos) << bad.why << ": " << what;
      EXPECT_NE(what.find(bad.part), std::string::npos) << bad.why << ": " << what;
      EXPECT_EQ(escape_control(what), what) << bad.why;
    }
  }
}

TEST(Safetensors, WhatTheFormatAllowsIsAccepted) {
  TempFolder folder;
  const Path file = folder.where() / "good.safetensors";
  const auto count = [&](const std::string& bytes) {
    std::ofstream(file, std::ios::binary) << bytes;
    return SafetensorsFile::open(file).tensors().size();
  };
  EXPECT_EQ(count(file_of(kGood, kGoodData)), 2u);
  EXPECT_EQ(count(file_of(kGood + "    ", kGoodData)), 2u) << "trailing spaces";
  EXPECT_EQ(count(file_of("{}", "")), 0u);
  EXPECT_EQ(count(file_of("{" + entry("s", "F32", "[]", "[0,4]") + "}", "1234")), 1u) << "scalar";
  EXPECT_EQ(count(file_of("{" + entry("z", "F32", "[0,5]", "[0,0]") + "}", "")), 1u) << "empty";
  EXPECT_EQ(count(file_of("{" + entry("b", "U8", "[2]", "[2,4]") + "," +
                              entry("a", "U8", "[2]", "[0,2]") + "}",
                          "1234")),
            2u)
      << "any order";
  EXPECT_EQ(count(file_of(R"({"__metadata__":{"format":"pt"}})", "")), 0u);
}

TEST(Safetensors, EveryTruncationAndEveryFlippedHeaderByteIsRefusedOrReadWithinBounds) {
  TempFolder folder;
  const Path file = folder.where() / "f.safetensors";
  const std::string good = file_of(kGood, kGoodData);
  for (std::size_t size = 0; size < good.size(); ++size) {
    std::ofstream(file, std::ios::binary) << good.substr(0, size);
    EXPECT_THROW(SafetensorsFile::open(file), InvalidInput) << size;
  }
  for (std::size_t i = 0; i < 8 + kGood.size(); ++i) {
    for (const int bit : {0, 3, 7}) {
      std::string flipped = good;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      std::ofstream(file, std::ios::binary) << flipped;
      try {
        const SafetensorsFile read = SafetensorsFile::open(file);
        int64_t bytes = 0;
        for (const TensorInfo& tensor : read.tensors()) {
          std::vector<std::byte> to(static_cast<std::size_t>(tensor.num_bytes()));
          read.read(tensor, to);
          bytes += tensor.num_bytes();
        }
        EXPECT_EQ(bytes, static_cast<int64_t>(kGoodData.size()));
      } catch (const InvalidInput&) {
      }
    }
  }
}

void write_numbers(const Path& file, const std::map<std::string, std::vector<float>>& tensors) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, values] : tensors) {
    infos.push_back({.name = name, .shape = {static_cast<int64_t>(values.size())}});
  }
  SafetensorsWriter::write(file, infos, {{"made", "here"}},
                           [&](const TensorInfo& info, FileSink& sink) {
                             sink.write(std::as_bytes(std::span(tensors.at(info.name))));
                           });
}

std::vector<float> numbers_of(const WeightFiles& weights, const std::string& name) {
  const auto found = weights.find(name);
  std::vector<float> out(static_cast<std::size_t>(found->tensor->num_elements()));
  found->file->read(*found->tensor, std::as_writable_bytes(std::span(out)));
  return out;
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  TempFolder folder;
  const Path file = folder.where() / "w.safetensors";
  write_numbers(file, {{"a", {1, 2, 3}}, {"b", {}}, {"c", {-0.5F}}});
  const WeightFiles weights = WeightFiles::open(file);
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(numbers_of(weights, "a"), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(numbers_of(weights, "b"), std::vector<float>{});
  EXPECT_EQ(weights.total_bytes(), 16);
  const SafetensorsFile& read = weights.files()[0];
  EXPECT_EQ(read.metadata().at("made"), "here");
  EXPECT_EQ(read.file_bytes(), static_cast<int64_t>(std::filesystem::file_size(file)));
  EXPECT_FALSE(read.find("d"));
  float second = 0;
  read.read(*read.find("a"), 4, std::as_writable_bytes(std::span(&second, 1)));
  EXPECT_EQ(second, 2);
  EXPECT_THROW(read.read(*read.find("a"), 12, std::as_writable_bytes(std::span(&second, 1))),
               std::logic_error);
}

TEST(Safetensors, AFileThatChangesWhileItIsReadIsNamed) {
  TempFolder folder;
  const Path file = folder.where() / "w.safetensors";
  const auto code_of_check = [](const SafetensorsFile& read) {
    try {
      read.check_unchanged();
    } catch (const InvalidInput& error) {
      return error.code();
    }
    return Code::kInternal;
  };
  write_numbers(file, {{"a", {1, 2}}});
  const SafetensorsFile before = SafetensorsFile::open(file);
  EXPECT_EQ(code_of_check(before), Code::kInternal) << "nothing changed";
  write_numbers(file, {{"a", {1, 2}}});  // the same bytes, another file
  EXPECT_EQ(code_of_check(before), Code::kFileChanged);

  const SafetensorsFile shrinking = SafetensorsFile::open(file);
  ASSERT_EQ(::truncate(file.c_str(), shrinking.file_bytes() - 4), 0);
  EXPECT_EQ(code_of_check(shrinking), Code::kFileChanged);
  std::vector<float> to(2);
  try {
    shrinking.read(*shrinking.find("a"), std::as_writable_bytes(std::span(to)));
    FAIL() << "must throw";
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kFileChanged);
  }
}

class Shards : public ::testing::Test {
 protected:
  void index(const std::string& map) {
    write_durably(folder_.where() / "model.safetensors.index.json",
                  R"({"metadata": {"total_size": 8}, "weight_map": )" + map + "}");
  }
  Code code(const char* part) {
    try {
      WeightFiles::open(folder_.where());
    } catch (const Failure& failure) {
      EXPECT_NE(std::string(failure.what()).find(part), std::string::npos) << failure.what();
      return failure.code();
    }
    return Code::kInternal;
  }
  void two_shards() {
    write_numbers(folder_.where() / "1.safetensors", {{"a", {1}}, {"b", {2}}});
    write_numbers(folder_.where() / "2.safetensors", {{"c", {3}}});
  }
  TempFolder folder_;
};

TEST_F(Shards, AreOneSetOfTensors) {
  two_shards();
  index(R"({"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"})");
  const WeightFiles weights = WeightFiles::open(folder_.where());
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(numbers_of(weights, "c"), std::vector<float>{3});
  EXPECT_EQ(weights.files().size(), 2u);
}

TEST_F(Shards, WithoutAnIndexEveryFileIsTaken) {
  two_shards();
  EXPECT_EQ(WeightFiles::open(folder_.where()).names().size(), 3u);
}

TEST_F(Shards, AFileThatTheIndexDoesNotNameIsLeftAlone) {
  two_shards();
  index(R"({"a": "1.safetensors", "b": "1.safetensors"})");
  EXPECT_EQ(WeightFiles::open(folder_.where()).names().size(), 2u);
}

TEST_F(Shards, AMissingShardIsNotFound) {
  two_shards();
  index(R"({"a": "1.safetensors", "b": "1.safetensors", "c": "3.safetensors"})");
  EXPECT_EQ(code("3.safetensors"), Code::kNotFound);
}

TEST_F(Shards, IndexAndFilesMustAgree) {
  two_shards();
  index(R"({"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"})");
  EXPECT_EQ(code("c (not in 1.safetensors)"), Code::kBadModel);
  index(R"({"a": "1.safetensors", "c": "2.safetensors"})");
  EXPECT_EQ(code("b (not listed)"), Code::kBadModel);
}

TEST_F(Shards, ATensorInTwoShardsIsADuplicate) {
  write_numbers(folder_.where() / "1.safetensors", {{"a", {1}}});
  write_numbers(folder_.where() / "2.safetensors", {{"a", {1}}});
  EXPECT_EQ(code("\"a\""), Code::kDuplicateKey);
}

TEST_F(Shards, NamesThatLeaveTheFolderAreRefused) {
  two_shards();
  for (const char* name : {"../1.safetensors", "/etc/passwd", "sub/1.safetensors", "..", "",
                           "1.bin", "1\\u001b.safetensors"}) {
    index(str(R"({"a": ")", name, R"("})"));
    EXPECT_EQ(code("plain .safetensors file name"), Code::kBadModel) << name;
  }
}

TEST_F(Shards, ALinkIsFollowedSinceHubCachesKeepTheirBlobsElsewhere) {
  TempFolder elsewhere;
  write_numbers(elsewhere.where() / "x.safetensors", {{"a", {1}}});
  std::filesystem::create_symlink(elsewhere.where() / "x.safetensors",
                                  folder_.where() / "1.safetensors");
  index(R"({"a": "1.safetensors"})");
  EXPECT_EQ(numbers_of(WeightFiles::open(folder_.where()), "a"), std::vector<float>{1});
}

TEST_F(Shards, ADamagedIndexNamesTheFile) {
  two_shards();
  write_durably(folder_.where() / "model.safetensors.index.json", "{");
  EXPECT_EQ(code("index.json"), Code::kBadJson);
  write_durably(folder_.where() / "model.safetensors.index.json", "{}");
  EXPECT_EQ(code("weight_map"), Code::kBadJson);
  index(R"({"a": "1.safetensors", "a": "2.safetensors"})");
  EXPECT_EQ(code("\"a\""), Code::kDuplicateKey);
  index(R"({"a": 1})");
  EXPECT_EQ(code("weight_map"), Code::kBadJson);
}

TEST_F(Shards, OnlyPickledWeightsAreRefusedByName) {
  write_durably(folder_.where() / "model.bin", "PK");
  EXPECT_EQ(code("model.bin"), Code::kUnsafeFormat);
  EXPECT_THROW(WeightFiles::open(folder_.where() / "model.bin"), InvalidInput);
  std::filesystem::remove(folder_.where() / "model.bin");
  EXPECT_EQ(code("holds no .safetensors"), Code::kNotFound);
}

}  // namespace
}  // namespace fastwan::io
