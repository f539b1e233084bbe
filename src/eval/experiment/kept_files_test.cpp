#include "eval/experiment/kept_files.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::eval {
namespace {

class Kept : public ::testing::Test {
 protected:
  Kept() {
    std::filesystem::create_directory(rows_);
    std::filesystem::create_directory(sheets_);
  }

  void keep(const std::string& fingerprint, uint8_t grey) const {
    const io::Image sheet{1, 1, {grey, grey, grey}};
    files_.keep("real", {{"fingerprint", fingerprint}, {"grey", grey}}, &sheet);
  }
  std::string sheet_of(uint8_t grey) const { return io::encode_png({1, 1, {grey, grey, grey}}); }
  std::string sheet() const { return read_file(sheets_ / "real.png"); }

  TempFolder temp_;
  Path rows_ = temp_.where() / "rows", sheets_ = temp_.where() / "sheets";
  KeptFiles files_{rows_, sheets_};
  const std::string full_ = std::string(64, 'a'), quick_ = std::string(64, 'b');
};

TEST_F(Kept, AnotherFingerprintThrowsNeitherNumbersNorSheetAway) {
  keep(full_, 1);
  keep(quick_, 2);
  EXPECT_EQ(sheet(), sheet_of(2));
  ASSERT_TRUE(files_.find("real", full_));
  EXPECT_EQ(files_.find("real", full_)->at("grey"), 1);
  EXPECT_EQ(sheet(), sheet_of(1));  // what was asked for last lies under the name itself
  EXPECT_EQ(read_json_file((rows_ / "real.json").string())["fingerprint"], full_);
  EXPECT_EQ(files_.find("real", quick_)->at("grey"), 2);
  EXPECT_EQ(sheet(), sheet_of(2));
  EXPECT_FALSE(files_.find("real", std::string(64, 'c')));
  EXPECT_EQ(sheet(), sheet_of(2));
  EXPECT_FALSE(files_.find("rea", full_));
}

TEST_F(Kept, WhatIsNoObjectOfNumbersIsRefusedByName) {
  for (const char* text : {"[1, 2]", "3", R"({"fingerprint": 3})"}) {
    write_durably(rows_ / "real.json", text);
    try {
      files_.find("real", full_);
      ADD_FAILURE() << "accepted " << text;
    } catch (const InvalidInput& error) {
      EXPECT_EQ(error.code(), Code::kBadJson);
      EXPECT_NE(std::string(error.what()).find("real.json"), std::string::npos) << error.what();
    }
  }
}

TEST_F(Kept, TheSameFingerprintIsReplaced) {
  keep(full_, 1);
  keep(full_, 2);
  EXPECT_EQ(files_.find("real", full_)->at("grey"), 2);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(rows_), {}), 1);
}

TEST_F(Kept, IsFoundByWhatTheFileSaysWhateverItsName) {
  write_durably(rows_ / "real.by-hand.json", Json{{"fingerprint", full_}}.dump());
  keep(quick_, 2);
  EXPECT_TRUE(files_.find("real", full_));
  EXPECT_FALSE(std::filesystem::exists(sheets_ / "real.png"));  // it has none: not another's
}

}  // namespace
}  // namespace fastwan::eval
