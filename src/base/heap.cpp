#include "base/heap.h"

#include <cstdlib>  // any header of the library says whether it is glibc

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace fastwan {

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kLargestOnHeap = 32 << 20;  // the highest that glibc reaches by itself
  constexpr int kKept = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kLargestOnHeap);
  mallopt(M_TRIM_THRESHOLD, kKept);
#endif
}

}  // namespace fastwan
