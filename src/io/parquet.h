// Rows of training data in Parquet files, in FastVideo's schemas.
//
// A tensor `x` is three columns: x_bytes (C-contiguous, little endian), x_shape, x_dtype. Apache
// Arrow reads and writes the files; it lies in libfastwan_parquet.so, which is opened when it is
// first needed: nothing else of the program pays for its 62 MB.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/files.h"
#include "io/safetensors.h"  // Dtype

namespace fastwan::io {

enum class RowSchema {
  kT2v,                    // latents and text of a clip
  kI2v,                    // the same with its first frame
  kTextOnly,               // prompts for data-free distillation
  kOdeTrajectoryTextOnly,  // a teacher's path from noise to latents
};

enum class ColumnKind { kText, kInteger, kReal, kTensor };

struct Column {
  std::string name;  // of a tensor: without _bytes, _shape, _dtype
  ColumnKind kind = ColumnKind::kText;
  bool is_required = true;  // a file without it is refused
};

const char* name_of(RowSchema schema);  // "t2v", "i2v", "text_only", "ode_trajectory_text_only"
const std::vector<Column>& columns_of(RowSchema schema);  // in the order of the file

struct TensorCell {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::string bytes;  // empty: the row has no such tensor
};

using Cell =
    std::variant<std::monostate, std::string, int64_t, double, TensorCell>;  // monostate: null
using Row = std::map<std::string, Cell, std::less<>>;                        // by column name

// "float32", "torch.bfloat16" and the like; nothing for other words.
std::optional<Dtype> dtype_of_word(std::string_view word);
const char* word_of(Dtype dtype);  // "float32"

// All *.parquet below a folder, sorted by path; hidden files are parts of something unfinished. A
// file is a list of one. IoError not_found; InvalidInput bad_dataset when there is none.
std::vector<Path> parquet_files(const Path& folder);

struct RowReaderOptions {
  std::vector<Column> columns;  // only these are read
  // Decoded row groups that are kept. A group that is larger is decoded again for every row, one
  // row of it in memory at a time.
  int64_t cache_bytes = int64_t{1} << 30;
};

class RowReader {
 public:
  RowReader() = default;
  RowReader(const RowReader&) = delete;
  RowReader& operator=(const RowReader&) = delete;
  virtual ~RowReader() = default;

  virtual int64_t rows() const = 0;  // of all files
  virtual int64_t rows_of(std::size_t file) const = 0;
  // A row by its number in the files' order; from any thread. A tensor's bytes are as many as its
  // shape and dtype say: a dtype word we do not know counts as float32 if the number of bytes
  // agrees. InvalidInput bad_dataset naming file, row and column; file_changed.
  virtual Row read(int64_t index) const = 0;
  virtual std::string place(int64_t index) const = 0;  // "a.parquet, row 3"
  virtual int64_t groups_decoded() const = 0;          // so far: whole groups and single rows
};

// Reads the footers of all files. InvalidInput bad_dataset: damage, a missing required column, a
// column of another type, encryption, a codec other than none, snappy and zstd, a row group above
// 4 GiB; IoError not_found, missing_library.
std::unique_ptr<RowReader> open_rows(std::vector<Path> files, RowReaderOptions options);

struct RowWriterOptions {
  RowSchema schema = RowSchema::kT2v;
  int64_t group_rows = 8;  // rows that a reader has to decode together
};

class RowWriter {
 public:
  RowWriter() = default;
  RowWriter(const RowWriter&) = delete;
  RowWriter& operator=(const RowWriter&) = delete;
  virtual ~RowWriter() = default;  // without finish() nothing is left

  // Columns that the row lacks become null, tensors empty.
  virtual void write(const Row& row) = 0;
  // Puts the file in its place, durably.
  virtual void finish() = 0;
};

// PLAIN pages of one value, zstd level 3, page checksums, no statistics on tensors' bytes.
std::unique_ptr<RowWriter> create_rows(const Path& to, const RowWriterOptions& options);

// What libfastwan_parquet.so exports, by C name: fastwan_open_rows, fastwan_create_rows.
using OpenRowsFunction = std::unique_ptr<RowReader> (*)(std::vector<Path>, RowReaderOptions);
using CreateRowsFunction = std::unique_ptr<RowWriter> (*)(const Path&, const RowWriterOptions&);

}  // namespace fastwan::io
