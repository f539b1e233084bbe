// Shapes checked at a room's door: a letter binds at first sight and is compared afterwards, digits
// are literal.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace fastwan {

std::string format_shape(std::span<const int64_t> sizes);  // "[1, 16, 21, 60, 104]"

class Shapes {
 public:
  explicit Shapes(std::string where) : where_(std::move(where)) {}

  // `pattern` is "B 6 C": one word a dimension. Throws InvalidInput (bad_tensor):
  //   WanBlock: cond must be [B 6 C] with B=1 C=1536, got [1, 4, 1536]
  void expect(std::string_view name, std::span<const int64_t> sizes, std::string_view pattern);

  int64_t operator[](const std::string& letter) const { return bound_.at(letter); }

 private:
  std::string where_;
  std::map<std::string, int64_t> bound_;
};

}  // namespace fastwan
