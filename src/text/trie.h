// A set of byte strings with numbers, searched by prefix.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastwan::text {

class Trie {
 public:
  // Key i gets the number i; of equal keys the last one counts; empty keys are left out.
  explicit Trie(const std::vector<std::string>& keys);

  // Calls found(length, number) for each key that `text` begins with, shortest first.
  template <class Found>
  void prefixes(std::string_view text, const Found& found) const {
    uint32_t node = 0;
    for (std::size_t length = 1; length <= text.size(); ++length) {
      node = child(node, static_cast<unsigned char>(text[length - 1]));
      if (node == 0) {
        return;
      }
      if (nodes_[node].number >= 0) {
        found(length, nodes_[node].number);
      }
    }
  }

  // The number of exactly this key, or -1.
  int64_t find(std::string_view key) const;

 private:
  struct Node {
    uint32_t first_child = 0;
    uint16_t num_children = 0;
    unsigned char byte = 0;
    int32_t number = -1;
  };

  uint32_t child(uint32_t node, unsigned char byte) const;  // 0: none

  std::vector<Node> nodes_;  // siblings lie together, in byte order; 0 is the root
};

}  // namespace fastwan::text
