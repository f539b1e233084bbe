// safetensors: named tensors in one file. Strict: a file is accepted only if every rule of the
// format holds, and it is rejected before any tensor memory exists.
//
//   8 bytes  header length N, little endian
//   N bytes  JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__":
//   strings rest     raw little-endian data; offsets count from here, contiguous, no hole, no
//   overlap
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace fastwan::io {

enum class Dtype { kBool, kU8, kI8, kI16, kU16, kI32, kU32, kI64, kU64, kF16, kBf16, kF32, kF64 };

const char* name_of(Dtype dtype);  // "BF16"
int64_t size_of(Dtype dtype);      // bytes of one element

struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // byte offsets in the data section
  int64_t end = 0;

  int64_t num_bytes() const { return end - begin; }
  int64_t num_elements() const { return num_bytes() / size_of(dtype); }
};

class SafetensorsFile {
 public:
  // Reads and checks the header. Errors name the file and, where there is one, the tensor.
  static SafetensorsFile open(const Path& file);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  const Path& path() const { return file_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::optional<TensorInfo> find(std::string_view name) const;
  int64_t file_bytes() const { return data_start_ + data_bytes_; }

  // Bytes [first, first + to.size()) of a tensor, read straight into `to`.
  void read(const TensorInfo& tensor, int64_t first, std::span<std::byte> to) const;
  // The whole tensor.
  void read(const TensorInfo& tensor, std::span<std::byte> to) const { read(tensor, 0, to); }
  // Size, inode and time of change are those of open(): file_changed otherwise. Called after a
  // load.
  void check_unchanged() const;
  // sha256 over the header: names, sizes, offsets.
  const std::string& header_digest() const { return header_digest_; }

 private:
  SafetensorsFile() = default;
  void read_header(const std::string& header);

  Path file_;
  int descriptor_ = -1;
  int64_t data_start_ = 0;
  int64_t data_bytes_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
  std::string header_digest_;
  struct Identity;
  std::unique_ptr<Identity> identity_;
};

// Writes one file durably: sizes first, data in the same order.
class SafetensorsWriter {
 public:
  // Name, dtype and shape of each tensor; offsets are computed.
  static void write(const Path& to,
                    const std::vector<TensorInfo>& tensors,
                    const std::map<std::string, std::string>& metadata,
                    const std::function<void(const TensorInfo&, FileSink&)>& write_data);
};

// The weights of one component folder: the index if there is one, else every *.safetensors.
class WeightFiles {
 public:
  // `component` is a folder or a single file. IoError not_found; unsafe_format where only pickled
  // weights lie.
  static WeightFiles open(const Path& component);

  struct Entry {
    const SafetensorsFile* file;
    const TensorInfo* tensor;
  };
  std::optional<Entry> find(std::string_view name) const;
  std::vector<std::string> names() const;  // sorted
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const Path& where() const { return where_; }
  int64_t total_bytes() const;
  void check_unchanged() const;
  // sha256 over file names and headers.
  std::string digest() const;

 private:
  void index_tensors();
  void check_against_index(const Path& index);

  Path where_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::pair<std::size_t, std::size_t>, std::less<>> by_name_;  // file, tensor
};

}  // namespace fastwan::io
