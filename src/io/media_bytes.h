// Reading at offsets in a file whose structure is not trusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/files.h"
#include "io/descriptor.h"

namespace fastwan::io {

// A regular file, read piece by piece; every read is checked against the file's size.
class MediaBytes {
 public:
  explicit MediaBytes(const Path& file);

  int64_t size() const { return size_; }
  const Path& file() const { return file_; }

  bool has(int64_t offset, int64_t count) const {
    return offset >= 0 && count >= 0 && count <= size_ && offset <= size_ - count;
  }
  // Exactly `count` bytes; InvalidInput bad_media when the file ends before.
  std::string read(int64_t offset, int64_t count) const;
  // What of them is there.
  std::string read_some(int64_t offset, int64_t count) const;

  [[noreturn]] void throw_bad(std::string_view what, int64_t offset) const;

 private:
  Path file_;
  Descriptor descriptor_;
  int64_t size_ = 0;
};

// A range of the file: the content of a box, a chunk, an element.
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Unsigned integers of up to 8 bytes.
uint64_t big_endian(std::string_view bytes);
uint64_t little_endian(std::string_view bytes);
std::string to_big_endian(uint64_t value, int bytes);
std::string to_little_endian(uint64_t value, int bytes);

}  // namespace fastwan::io
