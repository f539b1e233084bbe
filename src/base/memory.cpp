#include "base/memory.h"

#include <fstream>
#include <string>

#include "base/check.h"

namespace fastwan {

int64_t available_memory_bytes() {
  constexpr int64_t kKib = 1024;
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  while (meminfo >> word) {
    if (word == "MemAvailable:") {
      int64_t kib = 0;
      meminfo >> kib;
      return kib * kKib;
    }
  }
  throw IoError(Code::kReadFailed, "/proc/meminfo has no MemAvailable: is /proc mounted?");
}

}  // namespace fastwan
