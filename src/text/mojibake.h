// Repair of text in UTF-8 that was read as another encoding ("schÃ¶n"): ftfy's fix_encoding.
#pragma once

#include <string>

namespace fastwan::text {

// Text without sequences that hardly occur in intended text stays what it is. Else it is read
// again, as a whole or in parts, until nothing changes.
std::u32string fix_encoding(std::u32string text);

// C1 controls as the characters that Windows-1252 has in their place.
std::u32string fix_c1_controls(std::u32string text);

}  // namespace fastwan::text
