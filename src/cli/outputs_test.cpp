#include "cli/outputs.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::cli {
namespace {

using config::Origin;

TEST(FileNameOf, APromptBecomesASafeName) {
  EXPECT_EQ(file_name_of("a red kite"), "a red kite");
  EXPECT_EQ(file_name_of("../../etc/passwd"), "etcpasswd");
  EXPECT_EQ(file_name_of("a\\b/c:d*e?f\"g<h>i|j"), "abcdefghij");
  EXPECT_EQ(file_name_of("  two\n\t lines  "), "two lines");
  EXPECT_EQ(file_name_of("..."), "video");
  EXPECT_EQ(file_name_of(""), "video");
  EXPECT_EQ(file_name_of(std::string(300, 'x')).size(), 100u);
  std::string umlauts;
  for (int i = 0; i < 150; ++i) {
    umlauts += "\xc3\xa4";
  }
  EXPECT_EQ(file_name_of(umlauts).size(), 200u) << "characters, never half of one";
}

class Outputs : public ::testing::Test {
 protected:
  Outputs() {
    settings_.seed.set(7, Origin::kFlag);
    settings_.output_path.set(folder_.where().string(), Origin::kFlag);
  }
  void name_output(const std::string& name) {
    settings_.output_path = {};
    settings_.output.set((folder_.where() / name).string(), Origin::kFlag);
  }
  std::vector<std::string> names(const std::vector<std::string>& prompts) {
    std::vector<std::string> out;
    for (const Path& path : choose_outputs(settings_, prompts)) {
      out.push_back(path.filename().string());
    }
    return out;
  }
  Code code() {
    try {
      choose_outputs(settings_, {"a"});
    } catch (const Failure& failure) {
      return failure.code();
    }
    return Code::kInternal;
  }
  TempFolder folder_;
  config::Generate settings_;
};

TEST_F(Outputs, MadeUpNamesNeverReplaceAFileNorEachOther) {
  write_durably(folder_.where() / "a-7.mp4", "precious");
  EXPECT_EQ(names({"a", "b", "b"}),
            (std::vector<std::string>{"a-7_1.mp4", "b-7.mp4", "b-7_1.mp4"}));
  settings_.num_videos_per_prompt.set(2, Origin::kFlag);
  EXPECT_EQ(names({"c"}), (std::vector<std::string>{"c-7.mp4", "c-8.mp4"}));
}

TEST_F(Outputs, AGivenNameIsNumberedWhenThereAreSeveral) {
  name_output("clip.webm");
  EXPECT_EQ(names({"a", "b"}), (std::vector<std::string>{"clip.webm", "clip_1.webm"}));
}

TEST_F(Outputs, WhatCannotBeWrittenIsRefusedBeforeAnyWork) {
  name_output("clip.avi");
  EXPECT_EQ(code(), Code::kBadValue);
  name_output("clip");
  EXPECT_EQ(code(), Code::kBadValue);
  name_output("no/deeper/clip.mp4");
  EXPECT_EQ(code(), Code::kNotFound);
  name_output("there.mp4");
  write_durably(folder_.where() / "there.mp4", "precious");
  EXPECT_EQ(code(), Code::kExists);
  settings_.overwrite.set(true, Origin::kFlag);
  EXPECT_EQ(code(), Code::kInternal) << "now allowed";
  std::filesystem::create_directory(folder_.where() / "folder.mp4");
  name_output("folder.mp4");
  EXPECT_EQ(code(), Code::kExists);
  settings_.output_video_name.set("x", Origin::kFlag);
  EXPECT_EQ(code(), Code::kConflict);
}

TEST(ParseGrid, TakesColumnsAndRows) {
  EXPECT_EQ(parse_grid("3x2").columns, 3);
  EXPECT_EQ(parse_grid("3x2").rows, 2);
  for (const char* bad : {"", "3", "3x", "x2", "0x2", "3x2x1", "65x1", "ax2"}) {
    EXPECT_THROW(parse_grid(bad), InvalidInput) << bad;
  }
}

}  // namespace
}  // namespace fastwan::cli
