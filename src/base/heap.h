// How freed memory goes back to the system.
#pragma once

namespace fastwan {

// While it lives, blocks of 4 MiB and more go back to the system as soon as they are freed, instead
// of staying in a heap whose gaps the next ones do not fit (decoding a video: a quarter of the
// peak). Each such block is new memory, cleared by the kernel, so it costs time; afterwards blocks
// below 32 MiB are kept again. Process wide; glibc alone, elsewhere it does nothing.
class LargeBlocksReturned {
 public:
  LargeBlocksReturned();
  ~LargeBlocksReturned();
  LargeBlocksReturned(const LargeBlocksReturned&) = delete;
  LargeBlocksReturned& operator=(const LargeBlocksReturned&) = delete;
};

}  // namespace fastwan
