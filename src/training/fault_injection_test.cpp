#include "training/fault_injection.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <stdexcept>

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/files.h"

namespace fastwan::testing {
namespace {

FaultPlan g_plan;
int64_t g_calls = 0;
bool g_counts = false;

// Whether the call is to be made; otherwise errno is set.
bool may_go_on() {
  if (!g_counts || ++g_calls != g_plan.call || g_plan.fault == Fault::kNone) {
    return true;
  }
  if (g_plan.fault == Fault::kKill) {
    ::kill(::getpid(), SIGKILL);
  }
  errno = g_plan.error;
  return false;
}

template <class... Arguments>
long made(long number, Arguments... arguments) {
  return may_go_on() ? ::syscall(number, arguments...) : -1;
}

}  // namespace

int64_t with_faults(const FaultPlan& plan, const std::function<void()>& action) {
  g_plan = plan;
  g_calls = 0;
  g_counts = true;
  try {
    action();
  } catch (...) {
    g_counts = false;
    throw;
  }
  g_counts = false;
  return g_calls;
}

bool is_killed_in_child(const FaultPlan& plan, const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    at::set_num_threads(1);  // a forked pool has no threads
    try {
      with_faults(plan, action);
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

namespace {

TEST(FaultInjection, FailsTheCallThatWasAskedForAndNoOther) {
  TempFolder folder;
  const auto write = [&] { write_durably(folder.where() / "f", "new"); };
  // write, fsync of the file, rename, fsync of the folder
  ASSERT_EQ(with_faults({}, write), 4);
  write_durably(folder.where() / "f", "old");
  for (int64_t call = 1; call <= 3; ++call) {
    EXPECT_THROW(with_faults({.fault = Fault::kFail, .call = call, .error = ENOSPC}, write),
                 IoError);
    EXPECT_EQ(read_file(folder.where() / "f"), "old") << call;
  }
}

TEST(FaultInjection, KillsAChildAndNotTheTest) {
  TempFolder folder;
  const auto write = [&] { write_durably(folder.where() / "f", "x"); };
  EXPECT_TRUE(is_killed_in_child({.fault = Fault::kKill, .call = 3}, write));
  EXPECT_FALSE(std::filesystem::exists(folder.where() / "f"));
  EXPECT_FALSE(is_killed_in_child({}, write));
  EXPECT_EQ(read_file(folder.where() / "f"), "x");
}

}  // namespace
}  // namespace fastwan::testing

extern "C" {

ssize_t write(int descriptor, const void* bytes, size_t count) {
  return fastwan::testing::made(SYS_write, descriptor, bytes, count);
}
ssize_t pwrite(int descriptor, const void* bytes, size_t count, off_t at) {
  return fastwan::testing::made(SYS_pwrite64, descriptor, bytes, count, at);
}
int fsync(int descriptor) {
  return static_cast<int>(fastwan::testing::made(SYS_fsync, descriptor));
}
int ftruncate(int descriptor, off_t size) noexcept {
  return static_cast<int>(fastwan::testing::made(SYS_ftruncate, descriptor, size));
}
int rename(const char* from, const char* to) noexcept {
  return static_cast<int>(fastwan::testing::made(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}
int mkdir(const char* path, mode_t mode) noexcept {
  return static_cast<int>(fastwan::testing::made(SYS_mkdirat, AT_FDCWD, path, mode));
}
int unlink(const char* path) noexcept {
  return static_cast<int>(fastwan::testing::made(SYS_unlinkat, AT_FDCWD, path, 0));
}
int unlinkat(int descriptor, const char* path, int flags) noexcept {
  return static_cast<int>(fastwan::testing::made(SYS_unlinkat, descriptor, path, flags));
}
int rmdir(const char* path) noexcept {
  return static_cast<int>(fastwan::testing::made(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR));
}
}
