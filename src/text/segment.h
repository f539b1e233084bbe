// A stretch of the prompt on its way to ids.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace fastwan::text {

struct Segment {
  std::string text;
  bool is_at_start = false;  // its first character comes from the prompt's first one
};

using Normalize = std::function<void(Segment&)>;
using Split = std::function<std::vector<Segment>(const Segment&)>;

}  // namespace fastwan::text
