#include "base/files.h"

#include <cerrno>
#include <cstring>
#include <random>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan {
namespace {

class Descriptor {
 public:
  Descriptor(const Path& file, int flags, mode_t mode = 0644)
      : fd_(::open(file.c_str(), flags, mode)) {
    if (fd_ < 0) {
      throw_io_error(errno, file, "open");
    }
  }
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

  // Some file systems report a full disk only here.
  void close(const Path& file) {
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) {
      throw_io_error(errno, file, "close");
    }
  }

 private:
  int fd_;
};

class DescriptorSink final : public FileSink {
 public:
  DescriptorSink(int fd, Path file) : fd_(fd), file_(std::move(file)) {}

  void write(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) {
        continue;
      }
      if (written < 0) {
        throw_io_error(errno, file_, "write");
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

 private:
  int fd_;
  Path file_;
};

Path folder_of(const Path& file) {
  return file.has_parent_path() ? file.parent_path() : Path(".");
}

}  // namespace

void throw_io_error(int error_number, const Path& file, const char* action) {
  const std::string reason = std::generic_category().message(error_number);
  const std::string message =
      str("cannot ", action, " ", escape_control(file.string()), ": ", reason);
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      throw IoError(Code::kNotFound, message);
    case EACCES:
    case EPERM:
    case EROFS:
      throw IoError(Code::kNoPermission, message);
    case ENOSPC:
    case EDQUOT:
      throw IoError(Code::kDiskFull, message + ". Free some space or choose another folder");
    case EFBIG:
      throw IoError(Code::kDiskFull, message + ". Raise `ulimit -f` or choose another folder");
    default:
      throw IoError(std::string_view(action) == "read" ? Code::kReadFailed : Code::kWriteFailed,
                    message);
  }
}

std::string read_file(const Path& file, int64_t limit) {
  const Descriptor descriptor(file, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) {
    throw_io_error(errno, file, "read");
  }
  if (S_ISDIR(status.st_mode)) {
    throw IoError(Code::kNotFound, str(file.string(), " is a folder, wanted a file"));
  }
  if (status.st_size > limit) {
    throw InvalidInput(Code::kBadValue, str(file.string(), " has ", status.st_size,
                                            " bytes, at most ", limit, " are read"));
  }
  std::string content;
  std::string buffer(1 << 16, '\0');
  while (true) {
    const ssize_t got = ::read(descriptor.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_io_error(errno, file, "read");
    }
    if (got == 0) {
      return content;
    }
    content.append(buffer.data(), static_cast<std::size_t>(got));
    if (static_cast<int64_t>(content.size()) > limit) {
      throw InvalidInput(Code::kBadValue, str(file.string(), " grows past ", limit, " bytes"));
    }
  }
}

void require_writable_folder(const Path& folder) {
  const Path target = folder.empty() ? Path(".") : folder;
  std::error_code error;
  if (!std::filesystem::exists(target, error)) {
    if (!std::filesystem::create_directory(target, error)) {
      throw_io_error(error.value() == 0 ? ENOENT : error.value(), target, "create folder");
    }
  }
  if (!std::filesystem::is_directory(target, error)) {
    throw IoError(Code::kNotFound, str(escape_control(target.string()), " is not a folder"));
  }
  // access() asks with the real user's rights, which is what the write will use.
  if (::access(target.c_str(), W_OK | X_OK) != 0) {
    throw_io_error(errno, target, "write into");
  }
}

void sync_folder(const Path& folder) {
  const Descriptor descriptor(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) {
    throw_io_error(errno, folder, "fsync");
  }
}

void rename_durably(const Path& from, const Path& to) {
  {
    const Descriptor descriptor(from, O_RDONLY | O_CLOEXEC);
    if (::fsync(descriptor.get()) != 0) {
      throw_io_error(errno, from, "fsync");
    }
  }
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw_io_error(errno, to, "rename to");
  }
  sync_folder(folder_of(to));
}

AtomicFile::AtomicFile(Path to) : to_(std::move(to)) {
  temp_ = folder_of(to_) /
          str(".", to_.stem().string(), ".", ::getpid(), ".part", to_.extension().string());
}

AtomicFile::~AtomicFile() {
  if (!committed_) {
    std::error_code ignored;
    std::filesystem::remove(temp_, ignored);
  }
}

void AtomicFile::commit() {
  rename_durably(temp_, to_);
  committed_ = true;
}

void write_durably(const Path& to, const std::function<void(FileSink&)>& write) {
  AtomicFile file(to);
  {
    Descriptor descriptor(file.temp_path(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
    DescriptorSink sink(descriptor.get(), file.temp_path());
    write(sink);
    descriptor.close(file.temp_path());
  }
  file.commit();
}

void write_durably(const Path& to, std::string_view content) {
  write_durably(to, [content](FileSink& sink) {
    sink.write(std::as_bytes(std::span(content.data(), content.size())));
  });
}

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "fastwan-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw_io_error(errno, name, "create folder");
  }
  where_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(where_, ignored);
}

}  // namespace fastwan
