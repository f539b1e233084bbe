// Files: whole reads, durable writes, temporary names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace fastwan {

using Path = std::filesystem::path;

// The whole file as bytes; at most `limit`. IoError not_found, no_permission, read_failed;
// bad_value when it is larger.
std::string read_file(const Path& file, int64_t limit = int64_t{1} << 30);

// Turns errno into an IoError with the right code: not_found, no_permission, disk_full or
// `otherwise`.
[[noreturn]] void throw_io_error(int error_number, const Path& file, const char* action);

// A folder that can be written into, checked before any work; creates it when its parent exists.
void require_writable_folder(const Path& folder);

// What was created, renamed or removed in a folder is on the disk when this returns.
void sync_folder(const Path& folder);
// A file or folder under its final name: fsync, rename, fsync of the folder that holds it. What a
// folder holds must have been synced before.
void rename_durably(const Path& from, const Path& to);

class FileSink {
 public:
  virtual ~FileSink() = default;
  virtual void write(std::span<const std::byte> bytes) = 0;
};

// Writes beside `to` under a temporary name, fsync, rename, fsync of the folder. On any failure
// nothing is left.
void write_durably(const Path& to, const std::function<void(FileSink&)>& write);
void write_durably(const Path& to, std::string_view content);

// The same for a file that another writer makes, a child process say: it writes temp_path();
// commit() renames it. Without commit() the temporary file is removed.
class AtomicFile {
 public:
  explicit AtomicFile(Path to);  // temp name keeps the extension: .clip.<pid>.part.mp4
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  const Path& temp_path() const { return temp_; }
  void commit();

 private:
  Path to_;
  Path temp_;
  bool committed_ = false;
};

// A private folder that is removed with all its contents.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const Path& where() const { return where_; }

 private:
  Path where_;
};

}  // namespace fastwan
