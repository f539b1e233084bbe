// Text files that people write.
#pragma once

#include <cstdint>
#include <string>

#include "base/files.h"

namespace fastwan {

// As read_file(), without the byte order mark, EF BB BF, that some editors put before the first
// word.
std::string read_text_file(const Path& file, int64_t limit);

}  // namespace fastwan
