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

TEST(KeepFreedMemory, KeepsWhatWouldGoBackToTheSystem) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "another allocator stands in for glibc's";
#endif
  constexpr int64_t kBlock = int64_t{16} << 20, kBlocks = 8;
  const int64_t before = resident_bytes();
  const auto left_by_freed_blocks = [before] {
    char* volatile blocks[kBlocks] = {};  // nothing else is on the heap between and above them
    for (char* volatile& block : blocks) {
      block = static_cast<char*>(std::malloc(kBlock));
      std::memset(block, 1, kBlock);
    }
    for (char* block : blocks) {
      std::free(block);
    }
    return resident_bytes() - before;
  };
  EXPECT_LT(left_by_freed_blocks(), kBlocks * kBlock / 2);  // in single mappings, at first
  EXPECT_LT(left_by_freed_blocks(), kBlocks * kBlock / 2);
  keep_freed_memory();
  EXPECT_GT(left_by_freed_blocks(), kBlocks * kBlock * 9 / 10);
}

}  // namespace
}  // namespace fastwan
