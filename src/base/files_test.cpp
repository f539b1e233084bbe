#include "base/files.h"

#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const Path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

template <class Action>
Code code_of(const Action& action) {
  try {
    action();
  } catch (const Failure& e) {
    return e.code();
  }
  return Code::kInternal;
}

TEST(WriteDurably, ReplacesAFileWholeAndLeavesNothingElse) {
  const TempFolder folder;
  const Path file = folder.where() / "a.json";
  write_durably(file, "first, longer");
  write_durably(file, "second");
  EXPECT_EQ(read_file(file), "second");
  EXPECT_EQ(names_in(folder.where()), std::vector<std::string>{"a.json"});
}

TEST(WriteDurably, LeavesTheOldFileAndNoTraceWhenTheWriterThrows) {
  const TempFolder folder;
  const Path file = folder.where() / "a.json";
  write_durably(file, "old");
  EXPECT_THROW(write_durably(file,
                             [](FileSink& sink) {
                               sink.write(std::as_bytes(std::span<const char>("half", 4)));
                               throw std::runtime_error("power cut");
                             }),
               std::runtime_error);
  EXPECT_EQ(read_file(file), "old");
  EXPECT_EQ(names_in(folder.where()), std::vector<std::string>{"a.json"});
}

TEST(AtomicFile, KeepsTheExtensionAndVanishesWithoutCommit) {
  const TempFolder folder;
  const Path to = folder.where() / "clip.mp4";
  {
    const AtomicFile file(to);
    EXPECT_EQ(file.temp_path().extension(), ".mp4");
    EXPECT_EQ(file.temp_path().parent_path(), folder.where());
    write_durably(file.temp_path(), "half");
  }
  EXPECT_TRUE(names_in(folder.where()).empty());
  AtomicFile file(to);
  write_durably(file.temp_path(), "whole");
  file.commit();
  EXPECT_EQ(read_file(to), "whole");
}

TEST(ReadFile, SaysWhatIsWrongWithTheFile) {
  const TempFolder folder;
  write_durably(folder.where() / "five", "12345");
  EXPECT_EQ(read_file(folder.where() / "five", 5), "12345");
  EXPECT_EQ(code_of([&] { read_file(folder.where() / "five", 4); }), Code::kBadValue);
  EXPECT_EQ(code_of([&] { read_file(folder.where() / "none"); }), Code::kNotFound);
}

TEST(RequireWritableFolder, MakesTheLastFolderOnly) {
  const TempFolder folder;
  require_writable_folder(folder.where() / "out");
  EXPECT_TRUE(fs::is_directory(folder.where() / "out"));
  EXPECT_EQ(code_of([&] { require_writable_folder(folder.where() / "a" / "b"); }), Code::kNotFound);
}

TEST(TempFolder, IsRemovedWithAllItHolds) {
  Path where;
  {
    const TempFolder folder;
    where = folder.where();
    fs::create_directory(where / "deep");
    write_durably(where / "deep" / "a", "x");
  }
  EXPECT_FALSE(fs::exists(where));
}

TEST(Info, EveryCodeHasARowAndAStatusThatIsNotSuccess) {
  for (int code = 0; code <= static_cast<int>(Code::kInternal); ++code) {
    const CodeInfo& row = info(static_cast<Code>(code));
    EXPECT_NE(row.exit_status, 0) << row.name;
    EXPECT_GE(row.http_status, 400) << row.name;
  }
}

TEST(Invariant, NamesFileLineAndClaim) {
  EXPECT_NO_THROW(invariant(true, "holds"));
  try {
    invariant(false, "two is three");
    ADD_FAILURE();
  } catch (const std::logic_error& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("files_test.cpp:"), std::string::npos) << message;
    EXPECT_NE(message.find("two is three"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace fastwan
