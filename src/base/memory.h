// Host memory, as the kernel reports it.
#pragma once

#include <cstdint>

namespace fastwan {

// What new work may take without swapping: MemAvailable of /proc/meminfo, in bytes. IoError
// read_failed where the kernel does not say.
int64_t available_memory_bytes();

}  // namespace fastwan
