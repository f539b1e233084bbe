#include "io/descriptor.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::io {

Descriptor open_regular_file(const Path& file) {
  // Without O_NONBLOCK, opening a FIFO that nobody writes would wait for ever.
  Descriptor opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!opened.is_open()) {
    throw_io_error(errno, file, "open");
  }
  struct stat status {};
  if (::fstat(opened.get(), &status) != 0) {
    throw_io_error(errno, file, "read");
  }
  if (!S_ISREG(status.st_mode)) {
    throw InvalidInput(Code::kBadValue,
                       str(escape_control(file.string()), " is not a regular file"));
  }
  return opened;
}

Descriptor memory_file(std::string_view content) {
  Descriptor file(::memfd_create("fastwan", MFD_CLOEXEC));
  if (!file.is_open()) {
    throw_io_error(errno, "a file in memory", "create");
  }
  std::string_view rest = content;
  while (!rest.empty()) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written < 0 && errno != EINTR) {
      throw_io_error(errno, "a file in memory", "write");
    }
    rest.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0) {
    throw_io_error(errno, "a file in memory", "rewind");
  }
  return file;
}

}  // namespace fastwan::io
