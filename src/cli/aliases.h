// Option names of other programs, and --size: rewritten to ours before parsing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fastwan::cli {

struct Alias {
  std::string_view name;  // without dashes, '-' for '_'
  bool takes_value = false;
  std::string_view ours;   // our option with its dashes; empty: no meaning here
  std::string_view value;  // of ours, where the alias has none of its own
  std::string_view note;   // why it has no meaning here
};

const Alias* find_alias(std::string_view name);

struct Translation {
  std::vector<std::string> words;
  std::string note;  // what to say about it; empty: nothing
};
// InvalidInput bad_value or usage for a value that has no counterpart.
Translation translate(const Alias& alias, const std::string& value);

}  // namespace fastwan::cli
