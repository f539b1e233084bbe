// An owned file descriptor.
#pragma once

#include <span>
#include <string_view>
#include <utility>

#include <unistd.h>

#include "base/files.h"

namespace fastwan::io {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) {
      ::close(std::exchange(fd_, -1));
    }
  }

 private:
  int fd_ = -1;
};

// For reading. A pipe, a folder or a device is refused as bad_value: "not a regular file".
Descriptor open_regular_file(const Path& file);

// An anonymous file in memory that holds `content`, read position at its start.
Descriptor memory_file(std::string_view content);

}  // namespace fastwan::io
