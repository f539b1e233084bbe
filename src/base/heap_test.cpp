#include "base/heap.h"

#include <cstdlib>
#include <cstring>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

namespace fastwan {
namespace {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Growth of the resident memory by a block of 16 MiB under another of 1 MiB, once it is freed.
int64_t bytes_left_by_a_freed_block() {
  constexpr std::size_t kBlock = std::size_t{16} << 20, kAbove = std::size_t{1} << 20;
  const int64_t before = resident_bytes();
  char* volatile block = static_cast<char*>(std::malloc(kBlock));
  std::memset(block, 1, kBlock);
  void* volatile above = std::malloc(kAbove);
  const int64_t full = resident_bytes() - before;
  EXPECT_GE(full, static_cast<int64_t>(kBlock) * 9 / 10);
  std::free(block);
  const int64_t left = resident_bytes() - before;
  std::free(above);
  return left;
}

TEST(LargeBlocksReturned, GiveTheirMemoryBackOnlyWhileItLives) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "another allocator stands in for glibc's";
#endif
  {
    const LargeBlocksReturned scope;
    EXPECT_LT(bytes_left_by_a_freed_block(), int64_t{4} << 20);
  }
  EXPECT_GT(bytes_left_by_a_freed_block(), int64_t{8} << 20);
}

}  // namespace
}  // namespace fastwan
