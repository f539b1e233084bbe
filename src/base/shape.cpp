#include "base/shape.h"

#include "base/check.h"
#include "base/text.h"

namespace fastwan {

std::string format_shape(std::span<const int64_t> sizes) {
  std::string out = "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    out += str(i == 0 ? "" : ", ", sizes[i]);
  }
  return out + "]";
}

void Shapes::expect(std::string_view name,
                    std::span<const int64_t> sizes,
                    std::string_view pattern) {
  const std::vector<std::string> words = split(pattern, ' ');
  bool fits = words.size() == sizes.size();
  std::map<std::string, int64_t> bound = bound_;
  for (std::size_t i = 0; fits && i < words.size(); ++i) {
    const std::optional<int64_t> literal = parse_int(words[i]);
    const int64_t wanted = literal ? *literal : bound.try_emplace(words[i], sizes[i]).first->second;
    fits = wanted == sizes[i];
  }
  if (fits) {
    bound_ = std::move(bound);
    return;
  }
  std::string known;
  for (const std::string& word : words) {
    const auto found = bound_.find(word);
    if (found != bound_.end()) {
      known += str(known.empty() ? " with " : " ", word, "=", found->second);
    }
  }
  throw InvalidInput(Code::kBadTensor, str(where_, ": ", name, " must be [", pattern, "]", known,
                                           ", got ", format_shape(sizes)));
}

}  // namespace fastwan
