#include "io/media_bytes.h"

#include <algorithm>
#include <cerrno>

#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::io {

MediaBytes::MediaBytes(const Path& file) : file_(file), descriptor_(open_regular_file(file)) {
  struct stat status {};
  if (::fstat(descriptor_.get(), &status) != 0) {
    throw_io_error(errno, file, "read");
  }
  size_ = status.st_size;
}

std::string MediaBytes::read_some(int64_t offset, int64_t count) const {
  const int64_t begin = std::clamp<int64_t>(offset, 0, size_);
  std::string bytes(static_cast<std::size_t>(std::clamp<int64_t>(count, 0, size_ - begin)), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::pread(descriptor_.get(), bytes.data() + done, bytes.size() - done,
                                begin + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_io_error(errno, file_, "read");
    }
    if (got == 0) {  // it became shorter meanwhile
      break;
    }
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

std::string MediaBytes::read(int64_t offset, int64_t count) const {
  if (!has(offset, count)) {
    throw_bad(str("wanted ", count, " bytes, the file has ", size_), offset);
  }
  std::string bytes = read_some(offset, count);
  if (static_cast<int64_t>(bytes.size()) != count) {
    throw_bad("the file became shorter", offset);
  }
  return bytes;
}

void MediaBytes::throw_bad(std::string_view what, int64_t offset) const {
  throw InvalidInput(Code::kBadMedia,
                     str(escape_control(file_.string()), ": damaged at byte ", offset, ": ", what));
}

uint64_t big_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) {
    value = value << 8 | static_cast<unsigned char>(byte);
  }
  return value;
}

uint64_t little_endian(std::string_view bytes) {
  return big_endian(std::string(bytes.rbegin(), bytes.rend()));
}

std::string to_big_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) {
    out += static_cast<char>(value >> (8 * i) & 0xFF);
  }
  return out;
}

std::string to_little_endian(uint64_t value, int bytes) {
  const std::string big = to_big_endian(value, bytes);
  return {big.rbegin(), big.rend()};
}

}  // namespace fastwan::io
