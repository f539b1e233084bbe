#include <csignal>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/files.h"

namespace fastwan {
namespace {

template <class Action>
Code code_of(Action action) {
  try {
    action();
  } catch (const Failure& failure) {
    return failure.code();
  }
  return Code::kInternal;
}

std::size_t count_entries(const Path& folder) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    static_cast<void>(entry);
    ++count;
  }
  return count;
}

TEST(WriteDurably, NamesAMissingFolder) {
  EXPECT_EQ(code_of([] { write_durably("/no/such/folder/a.txt", "x"); }), Code::kNotFound);
}

// In a child, since the limit cannot be raised again: exit status 0 says that all held.

TEST(AtomicFile, CommitPutsItInPlaceOfTheOldOne) {
  TempFolder folder;
  const Path to = folder.where() / "clip.mp4";
  write_durably(to, "old");
  AtomicFile file(to);
  std::ofstream(file.temp_path()) << "new";
  EXPECT_EQ(read_file(to), "old");
  file.commit();
  EXPECT_EQ(read_file(to), "new");
  EXPECT_EQ(count_entries(folder.where()), 1u);
}

TEST(AtomicFile, CommitOfAFileThatNobodyWroteFails) {
  TempFolder folder;
  AtomicFile file(folder.where() / "clip.mp4");
  EXPECT_EQ(code_of([&] { file.commit(); }), Code::kNotFound);
}

TEST(ThrowIoError, ErrnoDecidesTheCode) {
  const auto code = [](int number, const char* action) {
    return code_of([&] { throw_io_error(number, "f", action); });
  };
  EXPECT_EQ(code(ENOENT, "open"), Code::kNotFound);
  EXPECT_EQ(code(EACCES, "open"), Code::kNoPermission);
  EXPECT_EQ(code(EROFS, "open"), Code::kNoPermission);
  EXPECT_EQ(code(ENOSPC, "write"), Code::kDiskFull);
  EXPECT_EQ(code(EDQUOT, "write"), Code::kDiskFull);
  EXPECT_EQ(code(EIO, "read"), Code::kReadFailed);
  EXPECT_EQ(code(EIO, "write"), Code::kWriteFailed);
}

}  // namespace
}  // namespace fastwan
