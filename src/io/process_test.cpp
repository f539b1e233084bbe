#include "io/process.h"

#include <csignal>
#include <cstring>
#include <fstream>
#include <string_view>
#include <thread>

#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/check.h"
#include "base/text.h"
#include "io/descriptor.h"

namespace fastwan::io {
namespace {

using std::chrono::milliseconds;

ProcessSpec shell(const std::string& script) {  // tests only: the library never starts a shell
  return {.program = "/bin/sh", .arguments = {"-c", script}};
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

int open_descriptors() {
  int count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) {
    ++count;
  }
  ::closedir(folder);
  return count;
}

TEST(Process, GivesBackOutputExitStatusAndTheLastErrorLine) {
  const ProcessResult result = run_process(
      shell("echo out; echo first >&2; printf 'last \\033[31m\\n\\n' >&2; exit 3"), 100);
  EXPECT_EQ(result.output, "out\n");
  EXPECT_EQ(result.end.value, 3);
  EXPECT_FALSE(result.end.is_success());
  EXPECT_EQ(result.end.last_line, "last \\x1b[31m");
  EXPECT_EQ(result.end.describe(), "ended with status 3");
}

TEST(Process, PassesArgumentsUnchangedAndAnEmptyEnvironment) {
  ProcessSpec spec{.program = "/usr/bin/printf", .arguments = {"%s|", "a b", "$(id)", "*", ""}};
  EXPECT_EQ(run_process(spec, 100).output, "a b|$(id)|*||");
  EXPECT_EQ(run_process({.program = "/usr/bin/env"}, 100).output, "");
  EXPECT_EQ(run_process({.program = "/usr/bin/env", .environment = {"A=1"}}, 100).output, "A=1\n");
}

TEST(Process, FeedsMoreThanAPipeHolds) {
  TempFolder folder;
  const Path copy = folder.where() / "copy";
  Process process(
      {.program = "/bin/dd", .arguments = {"status=none", "bs=65536", "of=" + copy.string()}});
  const std::string block(3 << 20, 'x');
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(process.write(bytes_of(block)));
  }
  EXPECT_TRUE(process.wait().is_success());
  EXPECT_EQ(std::filesystem::file_size(copy), 4 * block.size());
}

TEST(Process, ReportsAMissingProgram) {
  try {
    Process process({.program = "/nowhere/ffmpeg"});
    FAIL() << "must throw";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), Code::kMissingProgram);
    EXPECT_STREQ(error.what(), "cannot start /nowhere/ffmpeg: No such file or directory");
  }
}

TEST(Process, AChildThatDiesEndsTheWriteWithoutSigPipe) {
  Process process(shell("exec <&-; echo gone >&2; exit 1"));
  const std::string block(1 << 20, 'x');
  bool taken = true;
  for (int i = 0; i < 10 && taken; ++i) {
    taken = process.write(bytes_of(block));
  }
  EXPECT_FALSE(taken);
  sigset_t pending;
  ::sigpending(&pending);
  EXPECT_EQ(::sigismember(&pending, SIGPIPE), 0);
  const ProcessEnd end = process.wait();
  EXPECT_EQ(end.value, 1);
  EXPECT_EQ(end.last_line, "gone");
}

TEST(Process, AKilledChildIsReportedBySignal) {
  Process process(shell("exec sleep 100"));
  ::kill(process.pid(), SIGKILL);
  const ProcessEnd end = process.wait();
  EXPECT_EQ(end.kind, ProcessEnd::Kind::kSignalled);
  EXPECT_EQ(end.describe(), "was killed by signal 9");
}

TEST(Process, AChildThatTakesNothingIsStoppedAfterTheStallLimit) {
  ProcessSpec spec = shell("exec sleep 100");
  spec.stall_limit = milliseconds(150);
  Process process(spec);
  const std::string block(4 << 20, 'x');
  EXPECT_FALSE(process.write(bytes_of(block)));
  EXPECT_EQ(process.wait().kind, ProcessEnd::Kind::kStalled);
}

TEST(Process, AChildThatNeitherEndsNorComputesIsStopped) {
  ProcessSpec spec = shell("cat >/dev/null; exec sleep 100");
  spec.stall_limit = milliseconds(150);
  Process process(spec);
  ASSERT_TRUE(process.write(bytes_of("frames")));
  EXPECT_EQ(process.wait().kind, ProcessEnd::Kind::kStalled);
}

TEST(Process, AChildThatComputesAfterItsInputIsLeftAlone) {
  TempFolder folder;
  const Path enough = folder.where() / "enough";
  ProcessSpec spec = shell("until [ -e " + enough.string() + " ]; do :; done; echo done >&2");
  // Long enough for the child to get the processor at least once on a busy machine.
  spec.stall_limit = milliseconds(2000);
  Process process(spec);
  std::jthread later([&] {
    std::this_thread::sleep_for(spec.stall_limit + milliseconds(500));
    std::ofstream(enough) << "x";
  });
  EXPECT_EQ(process.wait().last_line, "done");
}

TEST(Process, ReadingEndsAtTheTotalLimit) {
  ProcessSpec spec = shell("echo x; exec sleep 100");
  spec.total_limit = milliseconds(2000);  // the shell must have started by then
  const ProcessResult result = run_process(spec, 1 << 20);
  EXPECT_EQ(result.end.kind, ProcessEnd::Kind::kTimedOut);
  EXPECT_EQ(result.output, "x\n");
}

TEST(Process, AChildThatNeverLetsUsWaitStillEndsAtTheTotalLimit) {
  ProcessSpec spec{.program = "/bin/cat", .arguments = {"/dev/zero"}};
  spec.output = ProcessOutput::kPipe;
  spec.total_limit = milliseconds(200);
  Process process(spec);
  std::vector<std::byte> buffer(4096);
  while (process.read(buffer) > 0) {
  }
  EXPECT_EQ(process.wait().kind, ProcessEnd::Kind::kTimedOut);
}

TEST(Process, OutputBeyondItsLimitIsCut) {
  const ProcessResult result = run_process(shell("while :; do echo xxxxxxxx; done"), 1000);
  EXPECT_EQ(result.output.size(), 1000u);
}

TEST(Process, AStopRequestEndsTheChildAndThrowsStopped) {
  std::stop_source stop;
  ProcessSpec spec = shell("exec sleep 100");
  spec.stop = stop.get_token();
  Process process(spec);
  std::jthread later([&] {
    std::this_thread::sleep_for(milliseconds(50));
    stop.request_stop();
  });
  EXPECT_THROW(process.wait(), Stopped);
  EXPECT_EQ(process.wait().kind, ProcessEnd::Kind::kSignalled);
}

TEST(Process, KillsGrandchildrenToo) {
  TempFolder folder;
  const Path pid_file = folder.where() / "pid";
  {
    Process process(shell("sleep 100 & echo $! > " + pid_file.string() + "; wait"));
    while (!std::filesystem::exists(pid_file) || read_file(pid_file).empty()) {
      std::this_thread::sleep_for(milliseconds(2));
    }
  }
  const auto grandchild = static_cast<pid_t>(*parse_int(trim(read_file(pid_file))));
  for (int i = 0; i < 4000; ++i) {  // it may stay a zombie until init takes it
    const Path stat = str("/proc/", grandchild, "/stat");
    if (!std::filesystem::exists(stat) || read_file(stat).find(") Z ") != std::string::npos) {
      return;
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
  FAIL() << "process " << grandchild << " still runs";
}

TEST(Process, LimitsHold) {
  ProcessSpec spec = shell("ulimit -v; ulimit -t; ulimit -n; ulimit -c");
  spec.limits = {.address_space_bytes = int64_t{1} << 30, .cpu_seconds = 7, .open_files = 64};
  EXPECT_EQ(run_process(spec, 100).output, "1048576\n7\n64\n0\n");
}

TEST(Process, AFileBeyondItsLimitIsAnErrorInTheChildNotASignal) {
  TempFolder folder;
  ProcessSpec spec{
      .program = "/bin/dd",
      .arguments = {"if=/dev/zero", "count=9", "of=" + (folder.where() / "big").string()},
      .limits = {.file_bytes = 1024}};
  const ProcessEnd end = run_process(spec, 100).end;
  EXPECT_EQ(end.kind, ProcessEnd::Kind::kExited);
  EXPECT_NE(end.error_text.find("File too large"), std::string::npos);
}

TEST(Process, HandsOverOnlyTheNamedDescriptors) {
  const Descriptor leaked(::dup(2));  // another library's, not close-on-exec
  const Descriptor input = memory_file("in");
  const Descriptor extra = memory_file("extra");
  ProcessSpec spec = shell("cat; cat <&3; echo; cd /proc/self/fd; echo *");
  spec.input_fd = input.get();
  spec.extra_fd = extra.get();
  // The shell's glob opens the folder itself, as the next free number.
  EXPECT_EQ(run_process(spec, 100).output, "inextra\n0 1 2 3 4\n");
}

TEST(Process, LeavesNoDescriptorAndNoZombie) {
  const int before = open_descriptors();
  for (int i = 0; i < 20; ++i) {
    run_process(shell("exit 0"), 10);
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(OpenRegularFile, RefusesPipesFoldersAndDevices) {
  TempFolder folder;
  const Path fifo = folder.where() / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const Path& file : {fifo, folder.where(), Path("/dev/zero")}) {
    try {
      open_regular_file(file);
      FAIL() << file;
    } catch (const InvalidInput& error) {
      EXPECT_EQ(error.code(), Code::kBadValue);
      EXPECT_TRUE(std::string_view(error.what()).ends_with(" is not a regular file"));
    }
  }
}

}  // namespace
}  // namespace fastwan::io
