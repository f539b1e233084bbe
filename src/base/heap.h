// How freed memory goes back to the system.
#pragma once

namespace fastwan {

// From now on up to 1 GiB at the heap's end stays with the process when it is freed, of blocks
// below 32 MiB, for a loop that needs the same again in every round: new memory is cleared by the
// kernel page by page (4 % of a training step of the tiny transformer, whose peak stays the same).
// Process wide; glibc alone, elsewhere it does nothing.
void keep_freed_memory();

}  // namespace fastwan
