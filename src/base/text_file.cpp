#include "base/text_file.h"

#include <string_view>

namespace fastwan {

std::string read_text_file(const Path& file, int64_t limit) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  std::string text = read_file(file, limit);
  if (text.starts_with(kMark)) {
    text.erase(0, kMark.size());
  }
  return text;
}

}  // namespace fastwan
