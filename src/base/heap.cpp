#include "base/heap.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace fastwan {
namespace {

#if defined(__GLIBC__)
constexpr int kReturned = 4 << 20;
constexpr int kKept = 32 << 20;  // the highest that glibc reaches by itself
#endif

}  // namespace

LargeBlocksReturned::LargeBlocksReturned() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, kReturned);
#endif
}

LargeBlocksReturned::~LargeBlocksReturned() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, kKept);
  mallopt(M_TRIM_THRESHOLD, 2 * kKept);  // as glibc pairs them
#endif
}

}  // namespace fastwan
