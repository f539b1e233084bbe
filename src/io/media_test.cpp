#include "io/media.h"

#include <fstream>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/env.h"
#include "io/media_test_support.h"

namespace fastwan::io {
namespace {

namespace fs = std::filesystem;

// A variable for one test.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const std::string& value) : name_(name), old_(env(name)) {
    ::setenv(name, value.c_str(), 1);
  }
  ~ScopedEnv() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }
  ScopedEnv(const ScopedEnv&) = delete;
  ScopedEnv& operator=(const ScopedEnv&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(FindFfmpeg, TakesTheVariableThenThePathThenTheWheel) {
  TempFolder folder;
  const ScopedEnv no_ours("FASTWAN_FFMPEG_BIN", "");
  const ScopedEnv no_theirs("FASTVIDEO_FFMPEG_BIN", "");
  const ScopedEnv path("PATH", "/nowhere::" + (folder.where() / "bin").string());
  const Path venv = folder.where() / "venv";
  const Path wheel = venv / "lib/python3.11/site-packages/imageio_ffmpeg/binaries";
  const std::vector<Path> venvs = {folder.where() / "absent", venv};
  fs::create_directories(wheel);
  fs::create_directories(folder.where() / "bin");
  EXPECT_EQ(find_ffmpeg(venvs), std::nullopt);

  const Path in_wheel = write_script(wheel / "ffmpeg-linux-x86_64-v9", "");
  EXPECT_EQ(find_ffmpeg(venvs), in_wheel);
  const Path on_path = write_script(folder.where() / "bin" / "ffmpeg", "");
  EXPECT_EQ(find_ffmpeg(venvs), on_path);
  const Path theirs = write_script(folder.where() / "theirs", "");
  const ScopedEnv set_theirs("FASTVIDEO_FFMPEG_BIN", theirs.string());
  EXPECT_EQ(find_ffmpeg(venvs), theirs);
  const Path ours = write_script(folder.where() / "ours", "");
  const ScopedEnv set_ours("FASTWAN_FFMPEG_BIN", ours.string());
  EXPECT_EQ(find_ffmpeg(venvs), ours);
}

TEST(FindFfmpeg, RefusesAVariableThatNamesNoProgram) {
  const ScopedEnv variable("FASTWAN_FFMPEG_BIN", "/nowhere/ffmpeg");
  try {
    find_ffmpeg({});
    FAIL() << "must throw";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), Code::kMissingProgram);
    EXPECT_EQ(info(error.code()).exit_status, 5);
    EXPECT_TRUE(std::string_view(error.what())
                    .starts_with("FASTWAN_FFMPEG_BIN is /nowhere/ffmpeg, which is no program. "));
  }
}

TEST(OpenFfmpeg, WithoutAnyProgramSaysWhatToDo) {
  const ScopedEnv no_ours("FASTWAN_FFMPEG_BIN", "");
  const ScopedEnv no_theirs("FASTVIDEO_FFMPEG_BIN", "");
  const ScopedEnv path("PATH", "/nowhere");
  try {
    open_ffmpeg({});
    FAIL() << "must throw";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), Code::kMissingProgram);
    EXPECT_STREQ(error.what(),
                 "there is no ffmpeg on PATH. Install ffmpeg, or set FASTWAN_FFMPEG_BIN to the "
                 "program");
  }
}

TEST(OpenFfmpeg, RefusesAProgramThatIsNotFfmpegOrFails) {
  TempFolder folder;
  for (const char* script : {"echo hello", "echo broken >&2; exit 1"}) {
    try {
      open_ffmpeg_at(write_script(folder.where() / "fake", script));
      FAIL() << script;
    } catch (const IoError& error) {
      EXPECT_EQ(error.code(), Code::kMissingProgram) << script;
    }
  }
}

TEST(OpenFfmpeg, ReadsTheVersionOfTheRealProgram) {
  const Ffmpeg& ffmpeg = test_ffmpeg();
  EXPECT_FALSE(ffmpeg.version.empty());
  EXPECT_EQ(ffmpeg.version.find(' '), std::string::npos);
}

}  // namespace
}  // namespace fastwan::io
