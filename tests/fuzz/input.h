// What the fuzz targets share: bytes as a file, and which exceptions a parser may throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/files.h"

namespace fastwan::testing {

// A file in memory, reachable by path while this lives.
class MemoryFile {
 public:
  MemoryFile(const std::uint8_t* data, std::size_t size) : descriptor_(::memfd_create("fuzz", 0)) {
    invariant(::write(descriptor_, data, size) == static_cast<ssize_t>(size), "memory takes it");
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  Path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

// A parser accepts, or throws InvalidInput or IoError; anything else ends the run as a crash.
template <class Parse>
int accept_or_refuse(const Parse& parse) {
  try {
    parse();
  } catch (const InvalidInput&) {
  } catch (const IoError&) {
  }
  return 0;
}

}  // namespace fastwan::testing
