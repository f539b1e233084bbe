#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little endian and read in place");

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxNameBytes = 512;
constexpr std::size_t kMaxRank = 8;
constexpr int kMaxDepth = 4;
constexpr int64_t kMaxIndexBytes = 16 << 20;

struct DtypeRow {
  Dtype dtype;
  const char* name;
  int64_t size;
};
constexpr std::array kDtypes = {DtypeRow{Dtype::kBool, "BOOL", 1}, DtypeRow{Dtype::kU8, "U8", 1},
                                DtypeRow{Dtype::kI8, "I8", 1},     DtypeRow{Dtype::kI16, "I16", 2},
                                DtypeRow{Dtype::kU16, "U16", 2},   DtypeRow{Dtype::kI32, "I32", 4},
                                DtypeRow{Dtype::kU32, "U32", 4},   DtypeRow{Dtype::kI64, "I64", 8},
                                DtypeRow{Dtype::kU64, "U64", 8},   DtypeRow{Dtype::kF16, "F16", 2},
                                DtypeRow{Dtype::kBf16, "BF16", 2}, DtypeRow{Dtype::kF32, "F32", 4},
                                DtypeRow{Dtype::kF64, "F64", 8}};

const DtypeRow& row_of(Dtype dtype) {
  return *std::find_if(kDtypes.begin(), kDtypes.end(),
                       [dtype](const DtypeRow& row) { return row.dtype == dtype; });
}

std::string quoted(std::string_view name) {
  return "\"" + escape_control(name.substr(0, kMaxNameBytes)) + "\"";
}

// Throws with "file: tensor "name": what".
class Complaint {
 public:
  Complaint(const Path& file, std::string_view tensor)
      : where_(file.string() + ": tensor " + quoted(tensor) + ": ") {}
  template <class... Parts>
  [[noreturn]] void raise(Code code, const Parts&... parts) const {
    throw InvalidInput(code, str(where_, parts...));
  }

 private:
  std::string where_;
};

int64_t non_negative(const Json& value, const Complaint& complaint, Code code, const char* what) {
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<int64_t>() < 0) ||
      value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    complaint.raise(code, what, " must be whole numbers from 0 to 2^63-1, got ",
                    escape_control(value.dump()));
  }
  return value.get<int64_t>();
}

TensorInfo read_entry(const Path& file,
                      const std::string& name,
                      const Json& entry,
                      int64_t data_bytes) {
  const Complaint complaint(file, name);
  if (name.size() > kMaxNameBytes) {
    complaint.raise(Code::kNameTooLong, "a name has at most ", kMaxNameBytes, " bytes, got ",
                    name.size());
  }
  if (escape_control(name) != name) {
    complaint.raise(Code::kBadHeader, "a name must not hold control bytes");
  }
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    complaint.raise(Code::kBadHeader, "must have exactly dtype, shape and data_offsets");
  }
  TensorInfo info{.name = name};
  const Json& dtype = entry.at("dtype");
  const auto* row = std::find_if(kDtypes.begin(), kDtypes.end(), [&dtype](const DtypeRow& r) {
    return dtype.is_string() && dtype.get_ref<const std::string&>() == r.name;
  });
  if (row == kDtypes.end()) {
    complaint.raise(Code::kUnsupportedDtype, "dtype ", escape_control(dtype.dump()),
                    " cannot be read; known: F32, F16, BF16, F64, I8 to I64, U8 to U64, BOOL");
  }
  info.dtype = row->dtype;
  const Json& shape = entry.at("shape");
  if (!shape.is_array() || shape.size() > kMaxRank) {
    complaint.raise(Code::kBadShape, "shape must be a list of at most ", kMaxRank, " sizes");
  }
  __extension__ using Wide = unsigned __int128;
  Wide bytes = static_cast<Wide>(row->size);
  for (const Json& size : shape) {
    info.shape.push_back(non_negative(size, complaint, Code::kBadShape, "sizes"));
    bytes *= static_cast<Wide>(info.shape.back());
    if (bytes > static_cast<Wide>(INT64_MAX)) {
      complaint.raise(Code::kBadShape, "shape has more than 2^63 bytes");
    }
  }
  const Json& offsets = entry.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2) {
    complaint.raise(Code::kBadOffsets, "data_offsets must be [begin, end]");
  }
  info.begin = non_negative(offsets[0], complaint, Code::kBadOffsets, "data_offsets");
  info.end = non_negative(offsets[1], complaint, Code::kBadOffsets, "data_offsets");
  if (info.begin > info.end) {
    complaint.raise(Code::kBadOffsets, "data begin ", info.begin, " lies behind its end ",
                    info.end);
  }
  if (info.end > data_bytes) {
    complaint.raise(Code::kBadOffsets, "data end ", info.end, " past the file's ", data_bytes,
                    " data bytes. Is the download complete?");
  }
  if (static_cast<Wide>(info.end - info.begin) != bytes) {
    complaint.raise(Code::kSizeMismatch, "shape and dtype need ", static_cast<int64_t>(bytes),
                    " bytes, data_offsets hold ", info.end - info.begin);
  }
  return info;
}

// Contiguous from 0 to the end, in some order: no hole, no overlap.
void check_coverage(const Path& file, const std::vector<TensorInfo>& tensors, int64_t data_bytes) {
  std::vector<const TensorInfo*> ordered;
  for (const TensorInfo& tensor : tensors) {
    ordered.push_back(&tensor);
  }
  std::sort(ordered.begin(), ordered.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::tie(a->begin, a->end) < std::tie(b->begin, b->end);
  });
  int64_t covered = 0;
  for (const TensorInfo* tensor : ordered) {
    if (tensor->begin != covered) {
      Complaint(file, tensor->name)
          .raise(Code::kBadOffsets, "data begins at ", tensor->begin, ", ", covered,
                 " was expected (", tensor->begin < covered ? "overlap" : "hole", ")");
    }
    covered = tensor->end;
  }
  if (covered != data_bytes) {
    throw InvalidInput(Code::kBadOffsets, str(file.string(), ": tensors end at byte ", covered,
                                              " of ", data_bytes, " data bytes"));
  }
}

void refuse_what_is_no_safetensors(const Path& file, std::string_view start) {
  if (start.starts_with("version https://git-lfs")) {
    throw InvalidInput(
        Code::kLfsPointer,
        str(file.string(), " is a Git LFS pointer, not the weights. Fetch it with: git lfs pull"));
  }
  const std::string lower = to_lower(trim(start));
  if (lower.starts_with("<!doctype") || lower.starts_with("<html") || lower.starts_with("<?xml")) {
    throw InvalidInput(Code::kLooksLikeHtml,
                       str(file.string(), " is a web page, not the weights. Download again"));
  }
}

void read_exactly(int descriptor, const Path& file, int64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = ::pread(descriptor, to.data(), to.size(), offset);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_io_error(errno, file, "read");
    }
    if (got == 0) {
      throw InvalidInput(Code::kFileChanged,
                         str(file.string(), " became shorter while it was read"));
    }
    to = to.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
}

}  // namespace

const char* name_of(Dtype dtype) {
  return row_of(dtype).name;
}
int64_t size_of(Dtype dtype) {
  return row_of(dtype).size;
}

struct SafetensorsFile::Identity {
  struct stat status {};
};

SafetensorsFile::~SafetensorsFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept {
  *this = std::move(other);
}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  file_ = std::move(other.file_);
  data_start_ = other.data_start_;
  data_bytes_ = other.data_bytes_;
  tensors_ = std::move(other.tensors_);
  by_name_ = std::move(other.by_name_);
  metadata_ = std::move(other.metadata_);
  header_digest_ = std::move(other.header_digest_);
  identity_ = std::move(other.identity_);
  return *this;
}

SafetensorsFile SafetensorsFile::open(const Path& file) {
  SafetensorsFile out;
  out.file_ = file;
  out.descriptor_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (out.descriptor_ < 0) {
    throw_io_error(errno, file, "open");
  }
  out.identity_ = std::make_unique<Identity>();
  if (::fstat(out.descriptor_, &out.identity_->status) != 0) {
    throw_io_error(errno, file, "read");
  }
  const int64_t file_bytes = out.identity_->status.st_size;
  std::string start(static_cast<std::size_t>(std::min<int64_t>(file_bytes, 64)), '\0');
  read_exactly(out.descriptor_, file, 0, std::as_writable_bytes(std::span(start)));
  refuse_what_is_no_safetensors(file, start);
  if (file_bytes < kLengthBytes) {
    throw InvalidInput(Code::kBadHeader,
                       str(file.string(), ": ", file_bytes, " bytes are too few for safetensors"));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, start.data(), sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes ||
      header_bytes > static_cast<uint64_t>(file_bytes - kLengthBytes)) {
    throw InvalidInput(
        Code::kBadHeader,
        str(file.string(), ": header of ", header_bytes, " bytes in a file of ", file_bytes,
            "; at most ", kMaxHeaderBytes, " are read. Is it safetensors, and complete?"));
  }
  out.data_start_ = kLengthBytes + static_cast<int64_t>(header_bytes);
  out.data_bytes_ = file_bytes - out.data_start_;
  std::string header(header_bytes, '\0');
  read_exactly(out.descriptor_, file, kLengthBytes, std::as_writable_bytes(std::span(header)));
  out.header_digest_ = sha256_hex(header);
  out.read_header(header);
  return out;
}

void SafetensorsFile::read_header(const std::string& header) {
  if (!header.starts_with("{") || header.find('\0') != std::string::npos) {
    throw InvalidInput(Code::kBadHeader,
                       str(file_.string(), ": the header must start with { and hold no NUL"));
  }
  const Json json = parse_json(header, file_.string() + ": header", {.max_depth = kMaxDepth});
  if (json.size() > kMaxTensors) {
    throw InvalidInput(Code::kTooManyTensors, str(file_.string(), ": at most ", kMaxTensors,
                                                  " tensors, got ", json.size()));
  }
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      const bool is_text =
          entry.is_object() &&
          std::all_of(entry.begin(), entry.end(), [](const Json& v) { return v.is_string(); });
      if (!is_text) {
        throw InvalidInput(Code::kBadHeader,
                           str(file_.string(), ": __metadata__ must map names to text"));
      }
      metadata_ = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    tensors_.push_back(read_entry(file_, name, entry, data_bytes_));
  }
  check_coverage(file_, tensors_, data_bytes_);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    by_name_.emplace(tensors_[i].name, i);
  }
}

std::optional<TensorInfo> SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? std::nullopt : std::optional(tensors_[found->second]);
}

void SafetensorsFile::read(const TensorInfo& tensor, int64_t first, std::span<std::byte> to) const {
  invariant(first >= 0 && first + static_cast<int64_t>(to.size()) <= tensor.num_bytes(),
            "a read stays inside its tensor");
  read_exactly(descriptor_, file_, data_start_ + tensor.begin + first, to);
}

void SafetensorsFile::check_unchanged() const {
  struct stat now {};
  if (::stat(file_.c_str(), &now) != 0) {
    throw_io_error(errno, file_, "read");
  }
  const struct stat& then = identity_->status;
  if (now.st_size != then.st_size || now.st_ino != then.st_ino ||
      now.st_mtim.tv_sec != then.st_mtim.tv_sec || now.st_mtim.tv_nsec != then.st_mtim.tv_nsec) {
    throw InvalidInput(Code::kFileChanged,
                       str(file_.string(), " changed while it was read. Run again"));
  }
}

void SafetensorsWriter::write(const Path& to,
                              const std::vector<TensorInfo>& tensors,
                              const std::map<std::string, std::string>& metadata,
                              const std::function<void(const TensorInfo&, FileSink&)>& write_data) {
  Json header = Json::object();
  if (!metadata.empty()) {
    header["__metadata__"] = metadata;
  }
  std::vector<TensorInfo> placed = tensors;
  int64_t offset = 0;
  for (TensorInfo& tensor : placed) {
    int64_t bytes = size_of(tensor.dtype);
    for (const int64_t size : tensor.shape) {
      bytes *= size;
    }
    tensor.begin = offset;
    tensor.end = offset += bytes;
    header[tensor.name] = {{"dtype", name_of(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {tensor.begin, tensor.end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data starts at a multiple of 8
  write_durably(to, [&](FileSink& sink) {
    const uint64_t length = text.size();
    sink.write(std::as_bytes(std::span(&length, 1)));
    sink.write(std::as_bytes(std::span(text)));
    for (const TensorInfo& tensor : placed) {
      write_data(tensor, sink);
    }
  });
}

namespace {

// A plain name inside the folder: no separator, no "..". A link is followed: hub caches keep their
// blobs beside the snapshot.
Path shard_path(const Path& folder, const std::string& name, const Path& index) {
  const bool is_plain = !name.empty() && name.find('/') == std::string::npos && name != "." &&
                        name != ".." && name.ends_with(".safetensors") &&
                        escape_control(name) == name;
  if (!is_plain) {
    throw InvalidInput(Code::kBadModel, str(index.string(), ": shard name ", quoted(name),
                                            " must be a plain .safetensors file name"));
  }
  return folder / name;
}

std::vector<Path> with_extension(const Path& folder,
                                 std::initializer_list<std::string_view> extensions) {
  std::vector<Path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string extension = entry.path().extension().string();
    if (std::find(extensions.begin(), extensions.end(), extension) != extensions.end()) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<Path> index_of(const Path& folder) {
  for (const Path& file : with_extension(folder, {".json"})) {
    if (file.string().ends_with(".safetensors.index.json")) {
      return file;
    }
  }
  return std::nullopt;
}

}  // namespace

WeightFiles WeightFiles::open(const Path& component) {
  WeightFiles out;
  out.where_ = component;
  std::error_code error;
  if (std::filesystem::is_regular_file(component, error)) {
    if (component.extension() != ".safetensors") {
      throw InvalidInput(
          Code::kUnsafeFormat,
          str(component.string(),
              " is not safetensors. Pickled weights are never read; convert them first"));
    }
    out.files_.push_back(SafetensorsFile::open(component));
    out.index_tensors();
    return out;
  }
  if (!std::filesystem::is_directory(component, error)) {
    throw_io_error(ENOENT, component, "open");
  }
  const std::optional<Path> index = index_of(component);
  std::vector<Path> paths;
  if (index) {
    const Json json = parse_json(read_file(*index, kMaxIndexBytes), index->string());
    std::set<std::string> names;
    for (const auto& [tensor, shard] :
         json_get<std::map<std::string, std::string>>(json, "weight_map", index->string())) {
      names.insert(shard);
    }
    for (const std::string& name : names) {
      paths.push_back(shard_path(component, name, *index));
    }
  } else {
    paths = with_extension(component, {".safetensors"});
  }
  if (paths.empty()) {
    const std::vector<Path> pickled = with_extension(component, {".bin", ".pt", ".pth", ".ckpt"});
    if (!pickled.empty()) {
      throw InvalidInput(Code::kUnsafeFormat,
                         str(pickled[0].string(),
                             ": pickled weights (.bin, .pt, .pth, .ckpt) can run code and are "
                             "never read. Convert them to safetensors first"));
    }
    throw IoError(Code::kNotFound, str(component.string(), " holds no .safetensors file"));
  }
  for (const Path& file : paths) {
    out.files_.push_back(SafetensorsFile::open(file));
  }
  out.index_tensors();
  if (index) {
    out.check_against_index(*index);
  }
  return out;
}

void WeightFiles::index_tensors() {
  for (std::size_t f = 0; f < files_.size(); ++f) {
    for (std::size_t t = 0; t < files_[f].tensors().size(); ++t) {
      const std::string& name = files_[f].tensors()[t].name;
      const auto [found, is_new] = by_name_.emplace(name, std::pair(f, t));
      if (!is_new) {
        throw InvalidInput(Code::kDuplicateKey,
                           str(files_[f].path().string(), ": tensor ", quoted(name), " is also in ",
                               files_[found->second.first].path().filename().string()));
      }
    }
  }
}

void WeightFiles::check_against_index(const Path& index) {
  const Json json = parse_json(read_file(index, kMaxIndexBytes), index.string());
  const auto listed =
      json_get<std::map<std::string, std::string>>(json, "weight_map", index.string());
  std::vector<std::string> wrong;
  for (const auto& [tensor, shard] : listed) {
    const auto found = by_name_.find(tensor);
    if (found == by_name_.end() || files_[found->second.first].path().filename() != shard) {
      wrong.push_back(str(escape_control(tensor), " (not in ", shard, ")"));
    }
  }
  for (const auto& [tensor, place] : by_name_) {
    if (!listed.contains(tensor)) {
      wrong.push_back(escape_control(tensor) + " (not listed)");
    }
  }
  if (!wrong.empty()) {
    throw InvalidInput(Code::kBadModel, str(index.string(), ": index and shards disagree about ",
                                            wrong.size(), " tensors: ", join_first(wrong, 10)));
  }
}

std::optional<WeightFiles::Entry> WeightFiles::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    return std::nullopt;
  }
  const SafetensorsFile& file = files_[found->second.first];
  return Entry{&file, &file.tensors()[found->second.second]};
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> out;
  for (const auto& [name, place] : by_name_) {
    out.push_back(name);
  }
  return out;
}

int64_t WeightFiles::total_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) {
    for (const TensorInfo& tensor : file.tensors()) {
      bytes += tensor.num_bytes();
    }
  }
  return bytes;
}

void WeightFiles::check_unchanged() const {
  for (const SafetensorsFile& file : files_) {
    file.check_unchanged();
  }
}

std::string WeightFiles::digest() const {
  Sha256 digest;
  for (const SafetensorsFile& file : files_) {
    digest.update(str(file.path().filename().string(), "\n", file.file_bytes(), "\n",
                      file.header_digest(), "\n"));
  }
  return digest.hex();
}

}  // namespace fastwan::io
