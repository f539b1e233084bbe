#include "base/json.h"

#include <string>

#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/text.h"

namespace fastwan {
namespace {

Code code_of(const std::string& text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "a.json", limits);
  } catch (const InvalidInput& e) {
    EXPECT_NE(std::string(e.what()).find("a.json"), std::string::npos) << e.what();
    return e.code();
  }
  return Code::kInternal;
}

TEST(ParseJson, KeepsOrderAndEveryKindOfValue) {
  const Json value = parse_json(R"({"z":[1,-2,2.5,true,null,"\u00e9"],"a":{}})", "a.json");
  EXPECT_EQ(value.dump(), "{\"z\":[1,-2,2.5,true,null,\"\xC3\xA9\"],\"a\":{}}");
}

TEST(ParseJson, RefusesWhatIsNotStrictJson) {
  for (const char* bad : {"", "{", "[1,]", "{\"a\":1,}", "{'a':1}", "[1] x", "// no\n1", "NaN"}) {
    EXPECT_EQ(code_of(bad), Code::kBadJson) << bad;
  }
  EXPECT_EQ(code_of("\"\xFF\""), Code::kNotUtf8);
}

TEST(ParseJson, RefusesARepeatedKeyInTheSameObjectOnly) {
  EXPECT_EQ(code_of(R"({"a":1,"b":{"a":2},"a":3})"), Code::kDuplicateKey);
  EXPECT_NO_THROW(parse_json(R"({"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]})", "a.json"));
}

TEST(ParseJson, StopsAtTheDepthLimit) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(parse_json(nested(64), "a.json"));
  EXPECT_EQ(code_of(nested(65)), Code::kBadJson);
  EXPECT_EQ(code_of(nested(1'000'000)), Code::kBadJson);  // no recursion, no stack to exhaust
}

TEST(JsonGet, WantsTheTypeAndNamesTheKey) {
  const Json value = parse_json(R"({"n":3,"x":0.5,"s":"a","none":null})", "a.json");
  EXPECT_EQ(json_get<int64_t>(value, "n", "a.json"), 3);
  EXPECT_EQ(json_get<double>(value, "n", "a.json"), 3.0);
  EXPECT_EQ(json_get_or<int64_t>(value, "none", 7, "a.json"), 7);
  EXPECT_THROW(json_get<int64_t>(value, "x", "a.json"), InvalidInput);
  EXPECT_THROW(json_get<bool>(value, "n", "a.json"), InvalidInput);
  EXPECT_THROW(json_get_or<int64_t>(value, "s", 7, "a.json"), InvalidInput);
  try {
    json_get<int64_t>(value, "gone", "a.json");
    ADD_FAILURE();
  } catch (const InvalidInput& e) {
    EXPECT_NE(std::string(e.what()).find("gone"), std::string::npos) << e.what();
  }
}

// FIPS 180-2, appendix B.
TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 pieces;
  for (int i = 0; i < 1000; ++i) {
    pieces.update(std::string(1000, 'a'));
  }
  EXPECT_EQ(pieces.hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(ParseJson, RefusesAByteOrderMark) {
  try {
    parse_json("\xef\xbb\xbf{}", "config.json");
    FAIL() << "must throw";
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kBadJson);
  }
}

}  // namespace
}  // namespace fastwan
