#include "text/trie.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace fastwan::text {
namespace {

struct Range {  // of the sorted keys that share a node's prefix
  std::size_t first;
  std::size_t last;
  std::size_t depth;
};

}  // namespace

Trie::Trie(const std::vector<std::string>& keys) {
  invariant(keys.size() <= INT32_MAX, "a key's number has 31 bits");
  std::vector<int32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const int compared =
        keys[static_cast<std::size_t>(a)].compare(keys[static_cast<std::size_t>(b)]);
    return compared != 0 ? compared < 0 : a < b;
  });
  const auto key = [&](std::size_t i) -> const std::string& {
    return keys[static_cast<std::size_t>(order[i])];
  };

  nodes_.emplace_back();
  std::vector<Range> ranges = {{.first = 0, .last = keys.size(), .depth = 0}};
  for (std::size_t node = 0; node < nodes_.size(); ++node) {
    auto [at, last, depth] = ranges[node];
    while (at < last && key(at).size() == depth) {  // sorted: the shortest come first
      nodes_[node].number = depth > 0 ? order[at] : -1;
      ++at;
    }
    nodes_[node].first_child = static_cast<uint32_t>(nodes_.size());
    while (at < last) {
      const char byte = key(at)[depth];
      std::size_t end = at;
      while (end < last && key(end)[depth] == byte) {
        ++end;
      }
      nodes_.push_back({.byte = static_cast<unsigned char>(byte)});
      ranges.push_back({.first = at, .last = end, .depth = depth + 1});
      ++nodes_[node].num_children;
      at = end;
    }
  }
}

uint32_t Trie::child(uint32_t node, unsigned char byte) const {
  const auto first = nodes_.begin() + nodes_[node].first_child;
  const auto last = first + nodes_[node].num_children;
  const auto at = std::lower_bound(
      first, last, byte,
      [](const Node& sibling, unsigned char wanted) { return sibling.byte < wanted; });
  return at != last && at->byte == byte ? static_cast<uint32_t>(at - nodes_.begin()) : 0;
}

int64_t Trie::find(std::string_view key) const {
  int64_t found = -1;
  prefixes(key, [&](std::size_t length, int32_t number) {
    if (length == key.size()) {
      found = number;
    }
  });
  return found;
}

}  // namespace fastwan::text
