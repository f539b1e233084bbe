#include "data/row_shard.h"

#include <algorithm>
#include <cerrno>
#include <set>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::data {
namespace {

constexpr int64_t kFormat = 1;

std::string file_name(std::size_t number) {
  std::string digits = str(number);
  digits.insert(0, digits.size() < 5 ? 5 - digits.size() : 0, '0');
  return str("data_chunk_", digits, ".parquet");
}

// Whether a process holds a FolderLock on it.
bool is_locked(const Path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool locked = fd >= 0 && ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (fd >= 0) {
    ::close(fd);
  }
  return locked;
}

// Held while the object lives; the kernel frees it when the process dies.
class FolderLock {
 public:
  explicit FolderLock(const Path& folder)
      : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (fd_ < 0) {
      throw_io_error(errno, folder, "open");
    }
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::close(fd_);
      if (error != EWOULDBLOCK) {
        throw_io_error(error, folder, "lock");
      }
      throw IoError(Code::kExists, str(escape_control(folder.string()),
                                       ": another process is writing this shard"));
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

// Temporary files of a run that was killed.
void remove_leftovers(const Path& folder) {
  std::vector<Path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".data_chunk_") || name.starts_with(".manifest")) {
      found.push_back(entry.path());
    }
  }
  for (const Path& file : found) {
    std::filesystem::remove(file);
  }
}

struct ListedFile {
  std::string name;
  int64_t rows = 0;
  int64_t bytes = 0;
  std::string sha256;
  int64_t next_input = 0;
  Counts left_out;  // up to here
};

std::string fingerprint_of(const RowShardOptions& options) {
  Sha256 digest;
  for (const auto& [name, value] : options.depends_on) {
    digest.update(str(name, '\0', value, '\0'));
  }
  return digest.hex();
}

// What is other now than in the manifest, by name.
std::string changes_since(const Json& document, const RowShardOptions& options) {
  const auto stored = document.find("depends_on");
  if (stored == document.end() || !stored->is_object()) {
    return "an earlier version of this program, which noted less";
  }
  std::set<std::string> others;
  for (const auto& [name, value] : stored->items()) {
    others.insert(name);
  }
  for (const auto& [name, value] : options.depends_on) {
    if (const auto found = stored->find(name); found != stored->end() && *found == value) {
      others.erase(name);
    } else {
      others.insert(name);
    }
  }
  return "another " + join_first(std::vector<std::string>(others.begin(), others.end()), 10);
}

Path made(const Path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw_io_error(error.value(), folder, "create folder");
  }
  return folder;
}

// Begun, and ended before its first file: such a shard binds nobody.
bool holds_nothing(const Json& document) {
  const auto files = document.find("files"), finished = document.find("finished");
  return files != document.end() && files->empty() && finished != document.end() &&
         *finished == false;
}

}  // namespace

std::pair<int64_t, int64_t> share_of(int64_t total, int64_t shard, int64_t shards) {
  const int64_t each = total / shards, more = total % shards;
  const int64_t first = shard * each + std::min(shard, more);
  return {first, first + each + (shard < more ? 1 : 0)};
}

struct RowShard::Impl {
  Impl(const Path& where, const RowShardOptions& with)
      : folder(made(where)), options(with), lock(folder) {
    remove_leftovers(folder);
    next_input = options.first_input;
    take_up();
    remove_unlisted();
    rows_found = rows;
    // Before the look around: of two that begin at once, one sees the other.
    const bool is_new = files.empty() && next_input < options.last_input;
    if (is_new) {
      write_manifest(false);
    }
    try {
      check_neighbours();
    } catch (...) {
      if (is_new) {  // a refused shard leaves nothing
        std::error_code error;
        std::filesystem::remove(manifest(), error);
        std::filesystem::remove(folder, error);
      }
      throw;
    }
  }

  Path manifest() const { return folder / "manifest.json"; }
  void take_up();
  bool is_whole(const ListedFile& file) const;
  void remove_unlisted() const;
  void check_neighbours() const;
  void write_manifest(bool is_finished) const;
  void close_file();

  Path folder;
  RowShardOptions options;
  FolderLock lock;
  std::vector<ListedFile> files;
  std::unique_ptr<io::RowWriter> writer;
  int64_t rows_in_file = 0;
  int64_t rows = 0, rows_found = 0;
  int64_t next_input = 0;
  Counts left_out;
};

void RowShard::Impl::take_up() {
  if (!std::filesystem::exists(manifest())) {
    return;
  }
  const std::string where = escape_control(manifest().string());
  const Json document = parse_json(read_file(manifest()), where);
  if (json_get<int64_t>(document, "format", where) != kFormat) {
    throw IoError(Code::kExists, str(where,
                                     ": was written by another version. Choose another "
                                     "folder"));
  }
  if (json_get<std::string>(document, "fingerprint", where) != fingerprint_of(options)) {
    if (holds_nothing(document)) {
      return;
    }
    throw IoError(Code::kExists,
                  str(where, ": this folder was begun with ", changes_since(document, options),
                      ". Choose another folder, or remove this one"));
  }
  for (const Json& entry : document.at("files")) {
    ListedFile file{.name = json_get<std::string>(entry, "name", where),
                    .rows = json_get<int64_t>(entry, "rows", where),
                    .bytes = json_get<int64_t>(entry, "bytes", where),
                    .sha256 = json_get<std::string>(entry, "sha256", where),
                    .next_input = json_get<int64_t>(entry, "next_input", where)};
    for (const auto& [reason, count] : entry.at("left_out").items()) {
      file.left_out[reason] = count.get<int64_t>();
    }
    if (!is_whole(file)) {
      return;  // this one and what follows is made again
    }
    rows += file.rows;
    next_input = file.next_input;
    left_out = file.left_out;
    files.push_back(std::move(file));
  }
  if (json_get<bool>(document, "finished", where)) {
    next_input = options.last_input;
    left_out.clear();
    for (const auto& [reason, count] : document.at("left_out").items()) {
      left_out[reason] = count.get<int64_t>();
    }
  }
}

bool RowShard::Impl::is_whole(const ListedFile& file) const {
  const Path path = folder / file.name;
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  return !error && static_cast<int64_t>(bytes) == file.bytes && sha256_file(path) == file.sha256;
}

// Files that were placed and not listed: their rows will come again.
void RowShard::Impl::remove_unlisted() const {
  std::set<std::string> listed;
  for (const ListedFile& file : files) {
    listed.insert(file.name);
  }
  std::vector<Path> unlisted;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("data_chunk_") && !listed.contains(name)) {
      unlisted.push_back(entry.path());
    }
  }
  for (const Path& file : unlisted) {
    std::filesystem::remove(file);
  }
}

// A reader takes all folders for one set: shards of another number repeat rows or leave some out,
// those of other settings mix.
void RowShard::Impl::check_neighbours() const {
  constexpr std::string_view kPrefix = "worker_";
  const auto own =
      std::find_if(options.depends_on.begin(), options.depends_on.end(),
                   [](const auto& dependency) { return dependency.first == kShardName; });
  if (own == options.depends_on.end()) {
    return;
  }
  const std::string shards = own->second.substr(own->second.find('/'));  // "/n"
  for (const auto& entry : std::filesystem::directory_iterator(folder.parent_path())) {
    const std::string name = entry.path().filename().string();
    const Path theirs = entry.path() / "manifest.json";
    if (!name.starts_with(kPrefix) || name == folder.filename() ||
        !std::filesystem::exists(theirs)) {
      continue;
    }
    const std::string where = escape_control(theirs.string());
    const Json document = parse_json(read_file(theirs), where);
    if (holds_nothing(document) && !is_locked(entry.path())) {
      continue;
    }
    RowShardOptions wanted = options;
    const auto place = wanted.depends_on.begin() + (own - options.depends_on.begin());
    place->second = name.substr(kPrefix.size()) + shards;
    if (document.value("fingerprint", "") != fingerprint_of(wanted)) {
      const Json stored = document.value("depends_on", Json::object());
      throw IoError(
          Code::kExists,
          str(where, ": the shard beside this one (--shard ", own->second, ") is ",
              stored.value(kShardName, "?"), ", begun with ", changes_since(document, wanted),
              ": the folder would hold rows of two sets. Choose another folder, or "
              "remove that shard"));
    }
  }
}

void RowShard::Impl::write_manifest(bool is_finished) const {
  Json document = {{"format", kFormat},
                   {"schema", io::name_of(options.schema)},
                   {"fingerprint", fingerprint_of(options)},
                   {"depends_on", Json::object()},
                   {"inputs", {options.first_input, options.last_input}},
                   {"finished", is_finished},
                   {"rows", rows},
                   {"left_out", Json::object()},
                   {"files", Json::array()}};
  for (const auto& [name, value] : options.depends_on) {
    document["depends_on"][name] = value;
  }
  document["left_out"].update(left_out);
  for (const ListedFile& file : files) {
    document["files"].push_back({{"name", file.name},
                                 {"rows", file.rows},
                                 {"bytes", file.bytes},
                                 {"sha256", file.sha256},
                                 {"next_input", file.next_input},
                                 {"left_out", Json(file.left_out)}});
  }
  write_durably(manifest(), dump_json(document) + "\n");
}

void RowShard::Impl::close_file() {
  writer->finish();
  writer.reset();
  const Path path = folder / file_name(files.size());
  files.push_back({.name = path.filename().string(),
                   .rows = rows_in_file,
                   .bytes = static_cast<int64_t>(std::filesystem::file_size(path)),
                   .sha256 = sha256_file(path),
                   .next_input = next_input,
                   .left_out = left_out});
  rows_in_file = 0;
}

RowShard::RowShard(const Path& folder, const RowShardOptions& options)
    : impl_(std::make_unique<Impl>(folder, options)) {}

RowShard::~RowShard() = default;

int64_t RowShard::next_input() const {
  return impl_->next_input;
}

void RowShard::add(const io::Row& row) {
  Impl& it = *impl_;
  if (!it.writer) {
    it.writer = io::create_rows(it.folder / file_name(it.files.size()),
                                {.schema = it.options.schema, .group_rows = it.options.group_rows});
  }
  it.writer->write(row);
  ++it.rows_in_file;
  ++it.rows;
  ++it.next_input;
  if (it.rows_in_file == it.options.rows_per_file) {
    it.close_file();
    it.write_manifest(false);
  }
}

void RowShard::leave_out(const std::string& reason) {
  ++impl_->left_out[reason];
  ++impl_->next_input;
}

void RowShard::finish() {
  Impl& it = *impl_;
  invariant(it.next_input == it.options.last_input, "a shard is finished after its last input");
  if (it.writer) {
    it.close_file();
  }
  it.write_manifest(true);
}

int64_t RowShard::rows() const {
  return impl_->rows;
}

int64_t RowShard::rows_found() const {
  return impl_->rows_found;
}

const Counts& RowShard::left_out() const {
  return impl_->left_out;
}

}  // namespace fastwan::data
