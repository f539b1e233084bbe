// Rows out of Parquet files, through Arrow's column readers: physical types are checked here, and
// no part of a file's own idea of an Arrow schema is followed.
#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include <arrow/io/file.h>
#include <arrow/memory_pool.h>
#include <parquet/column_reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/schema.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "io/descriptor.h"
#include "io/parquet.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMaxGroupBytes = int64_t{4} << 30;
constexpr int64_t kMaxGroupRows = int64_t{1} << 20;  // what writers make by default
constexpr int64_t kMaxTensorBytes = int64_t{512} << 20;
constexpr int64_t kMaxTextBytes = int64_t{1} << 20;
constexpr std::size_t kMaxDims = 8;
constexpr int64_t kReadAhead = int64_t{1} << 20;
constexpr int64_t kBatch = 64;  // values asked for at once; each page gives what it has

[[noreturn]] void throw_bad(const std::string& where, const std::string& what) {
  throw InvalidInput(Code::kBadDataset, str(where, ": ", what));
}

// What Arrow and the standard library throw about a file becomes one of our errors.
template <class Act>
auto translated(const std::string& where, const Act& act) {
  try {
    return act();
  } catch (const Failure&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    const std::string_view what = error.what();
    throw_bad(where,
              str("damaged or not Parquet: ", escape_control(what.substr(0, what.find('\n')))));
  }
}

struct Identity {  // of a file, to notice that it was replaced
  int64_t bytes = 0, seconds = 0, nanoseconds = 0;
  bool operator==(const Identity&) const = default;
};

struct OpenFile {
  std::unique_ptr<parquet::ParquetFileReader> reader;
  Identity identity;
};

using Footer = std::shared_ptr<parquet::FileMetaData>;

// `footer` gives what is already known of the file with such an identity, or null.
template <class KnownFooter>
OpenFile open_file(const Path& file, const KnownFooter& footer) {
  const Descriptor descriptor = open_regular_file(file);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) {
    throw_io_error(errno, file, "read");
  }
  const Identity identity{status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
  const std::string where = escape_control(file.string());
  return translated(where, [&]() -> OpenFile {
    parquet::ReaderProperties properties(arrow::system_memory_pool());
    properties.enable_buffered_stream();
    properties.set_buffer_size(kReadAhead);
    properties.set_page_checksum_verification(true);
    PARQUET_ASSIGN_OR_THROW(auto source, arrow::io::ReadableFile::Open(::dup(descriptor.get())));
    return {parquet::ParquetFileReader::Open(std::move(source), properties, footer(identity)),
            identity};
  });
}

// Parsed footers of files that were read last. To parse one takes a quarter of the time of a row of
// 590 kB in a file of 64 groups. From any thread.
class Footers {
 public:
  Footer find(std::size_t file) const {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(file);
    return found == known_.end() ? nullptr : found->second;
  }
  void keep(std::size_t file, const Footer& footer) {
    const std::lock_guard lock(mutex_);
    if (!known_.emplace(file, footer).second) {
      return;
    }
    age_.push_back(file);
    bytes_ += footer->size();
    while (bytes_ > kMaxBytes && age_.size() > 1) {
      const auto oldest = known_.find(age_.front());
      bytes_ -= oldest->second->size();
      known_.erase(oldest);
      age_.pop_front();
    }
  }

 private:
  static constexpr int64_t kMaxBytes = int64_t{16} << 20;  // in the files; parsed ten times as many
  mutable std::mutex mutex_;
  std::map<std::size_t, Footer> known_;
  std::deque<std::size_t> age_;
  int64_t bytes_ = 0;
};

// The leaf columns of one wanted column; -1: the file has none.
struct Leaves {
  int value = -1;  // text, number, or a tensor's bytes
  int shape = -1;
  int dtype = -1;
};

int find_leaf(const parquet::SchemaDescriptor& schema, const std::string& name) {
  for (int i = 0; i < schema.num_columns(); ++i) {
    if (schema.Column(i)->path()->ToDotVector().front() == name) {
      return i;
    }
  }
  return -1;
}

// Finds leaves and checks that each is what the schema of rows says.
class LeafFinder {
 public:
  LeafFinder(const parquet::SchemaDescriptor& schema, std::string file)
      : schema_(schema), file_(std::move(file)) {}

  Leaves find(const Column& column) const {
    Leaves leaves;
    switch (column.kind) {
      case ColumnKind::kText:
        leaves.value = leaf(column.name, parquet::Type::BYTE_ARRAY, 0, column.is_required);
        break;
      case ColumnKind::kInteger:
        leaves.value = leaf(column.name, parquet::Type::INT64, 0, column.is_required);
        break;
      case ColumnKind::kReal:
        leaves.value = leaf(column.name, parquet::Type::DOUBLE, 0, column.is_required);
        break;
      case ColumnKind::kTensor:
        leaves.value =
            leaf(column.name + "_bytes", parquet::Type::BYTE_ARRAY, 0, column.is_required);
        leaves.shape = leaf(column.name + "_shape", parquet::Type::INT64, 1, leaves.value >= 0);
        leaves.dtype = leaf(column.name + "_dtype", parquet::Type::BYTE_ARRAY, 0, false);
        break;
    }
    return leaves;
  }

 private:
  int leaf(const std::string& name, parquet::Type::type type, int repeats, bool required) const {
    const int found = find_leaf(schema_, name);
    if (found < 0) {
      if (required) {
        throw_bad(file_, str("has no column ", name,
                             ". `fastwan preprocess` writes such files; "
                             "is this one of another schema?"));
      }
      return -1;
    }
    const parquet::ColumnDescriptor& it = *schema_.Column(found);
    if (it.physical_type() != type || it.max_repetition_level() != repeats ||
        it.max_definition_level() > 1 + 2 * repeats) {
      throw_bad(file_, str("column ", name, " must be ", repeats == 0 ? "" : "a list of ",
                           parquet::TypeToString(type), ", got ",
                           it.max_repetition_level() == 0 ? "" : "a list of ",
                           parquet::TypeToString(it.physical_type())));
    }
    return found;
  }

  const parquet::SchemaDescriptor& schema_;
  std::string file_;
};

void check_group(const parquet::RowGroupMetaData& group,
                 const std::vector<Leaves>& wanted,
                 const std::string& where) {
  if (group.num_rows() < 0 || group.num_rows() > kMaxGroupRows ||
      group.total_byte_size() > kMaxGroupBytes) {
    throw_bad(where, str("says ", group.num_rows(), " rows in ", group.total_byte_size(),
                         " bytes, at most ", kMaxGroupRows, " rows in ", kMaxGroupBytes,
                         " bytes are read"));
  }
  for (const Leaves& leaves : wanted) {
    for (const int leaf : {leaves.value, leaves.shape, leaves.dtype}) {
      if (leaf < 0) {
        continue;
      }
      const auto chunk = group.ColumnChunk(leaf);
      const auto codec = chunk->compression();
      if (codec != parquet::Compression::UNCOMPRESSED && codec != parquet::Compression::SNAPPY &&
          codec != parquet::Compression::ZSTD) {
        throw_bad(where, str("column ", chunk->path_in_schema()->ToDotString(),
                             " is compressed by another codec than none, snappy and zstd. Write "
                             "the file again with one of them"));
      }
    }
  }
}

// Whether values are left. Arrow says no at each page that holds none, and writers leave such pages
// where a dictionary overflows: it is asked again.
bool has_more(parquet::ColumnReader& reader) {
  constexpr int kMaxEmptyPages = 16;  // in a row
  for (int i = 0; i < kMaxEmptyPages; ++i) {
    if (reader.HasNext()) {
      return true;
    }
  }
  return false;
}

// One column of one row group. Lists give all values of a row, the others one or none.
template <class ParquetType, class Take>
void read_leaf(parquet::ColumnReader& reader, int64_t skip, int64_t rows, const Take& take) {
  using Value = typename ParquetType::c_type;
  auto& typed = dynamic_cast<parquet::TypedColumnReader<ParquetType>&>(reader);
  const int16_t present = typed.descr()->max_definition_level();
  const bool is_list = typed.descr()->max_repetition_level() > 0;
  std::array<int16_t, kBatch> definition{}, repetition{};
  std::array<Value, kBatch> values{};
  while (skip > 0) {
    if (!has_more(reader)) {
      throw parquet::ParquetException("the column ends before the row");
    }
    skip -= typed.Skip(skip);
  }
  int64_t row = -1;
  while ((is_list || row + 1 < rows) && has_more(reader)) {
    int64_t num_values = 0;
    const int64_t wanted = is_list ? kBatch : std::min(kBatch, rows - row - 1);
    const int64_t levels =
        typed.ReadBatch(wanted, definition.data(), repetition.data(), values.data(), &num_values);
    if (levels == 0 && num_values == 0) {
      break;
    }
    int64_t value = 0;
    for (int64_t i = 0; i < std::max(levels, num_values); ++i) {
      const auto at = static_cast<std::size_t>(i);
      row += is_list && repetition[at] > 0 ? 0 : 1;
      if (row < 0 || row >= rows) {
        throw parquet::ParquetException("the column has more rows than its group");
      }
      const bool is_value = present == 0 || definition[at] == present;
      take(row, is_value ? &values[static_cast<std::size_t>(value++)] : nullptr);
    }
  }
  if (row + 1 != rows) {
    throw parquet::ParquetException(str("the column has ", row + 1, " rows, its group ", rows));
  }
}

using Texts = std::vector<std::optional<std::string>>;

Texts read_bytes(parquet::ColumnReader& reader, int64_t skip, int64_t rows, int64_t limit) {
  Texts out(static_cast<std::size_t>(rows));
  int64_t total = 0;  // the footer's word is not trusted
  read_leaf<parquet::ByteArrayType>(
      reader, skip, rows, [&](int64_t row, const parquet::ByteArray* value) {
        if (value == nullptr) {
          return;
        }
        total += value->len;
        if (static_cast<int64_t>(value->len) > limit || total > kMaxGroupBytes) {
          throw parquet::ParquetException(str("a value of ", value->len, " bytes, at most ", limit,
                                              " are read, ", kMaxGroupBytes, " of a row group"));
        }
        out[static_cast<std::size_t>(row)].emplace(reinterpret_cast<const char*>(value->ptr),
                                                   value->len);
      });
  return out;
}

std::vector<std::vector<int64_t>> read_lists(parquet::ColumnReader& reader, int64_t rows) {
  std::vector<std::vector<int64_t>> out(static_cast<std::size_t>(rows));
  read_leaf<parquet::Int64Type>(reader, 0, rows, [&](int64_t row, const int64_t* value) {
    auto& list = out[static_cast<std::size_t>(row)];
    if (value != nullptr && list.size() <= kMaxDims) {
      list.push_back(*value);
    }
  });
  return out;
}

// Elements of a shape, or nothing when a size is negative, the product overflows or there are too
// many dimensions.
std::optional<int64_t> num_elements(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(product, size, &product)) {
      return std::nullopt;
    }
  }
  return shape.size() <= kMaxDims ? std::optional(product) : std::nullopt;
}

Cell tensor_cell(std::optional<std::string> bytes,
                 std::vector<int64_t> shape,
                 const std::optional<std::string>& word,
                 const std::string& where) {
  if (!bytes || bytes->empty()) {
    return std::monostate{};
  }
  const std::optional<int64_t> elements = num_elements(shape);
  if (!elements) {
    throw_bad(where, str("impossible shape ", format_shape(shape)));
  }
  const std::optional<Dtype> known = dtype_of_word(word.value_or(""));
  const Dtype dtype = known.value_or(Dtype::kF32);
  const auto num_bytes = static_cast<int64_t>(bytes->size());
  if (num_bytes / size_of(dtype) != *elements || num_bytes % size_of(dtype) != 0) {
    const std::string type = known ? word_of(dtype)
                                   : str("dtype ", escape_control(word.value_or("(none)")),
                                         ", which is not known and so read as float32,");
    throw_bad(where, str("shape ", format_shape(shape), " of ", type, " wants ",
                         str(*elements, " x ", size_of(dtype)), " bytes, got ", num_bytes));
  }
  return TensorCell{dtype, std::move(shape), std::move(*bytes)};
}

Cell text_cell(std::optional<std::string> text, const std::string& where) {
  if (!text) {
    return std::monostate{};
  }
  if (!is_valid_utf8(*text)) {
    throw_bad(where, "not UTF-8");
  }
  return std::move(*text);
}

template <class Type>
void read_numbers(parquet::ColumnReader& reader,
                  int64_t skip,
                  const std::string& name,
                  std::vector<Row>& rows) {
  read_leaf<Type>(reader, skip, static_cast<int64_t>(rows.size()),
                  [&](int64_t row, const typename Type::c_type* value) {
                    rows[static_cast<std::size_t>(row)][name] =
                        value == nullptr ? Cell{} : Cell{*value};
                  });
}

// Some rows of one row group: all, or one.
class GroupDecoder {
 public:
  GroupDecoder(const OpenFile& file, int group, std::string where, int64_t group_rows)
      : reader_(file.reader->RowGroup(group)), where_(std::move(where)), group_rows_(group_rows) {}

  std::vector<Row> decode(const std::vector<Column>& columns,
                          const std::vector<Leaves>& leaves,
                          int64_t first,
                          int64_t count) {
    std::vector<Row> rows(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < columns.size(); ++i) {
      if (leaves[i].value >= 0) {
        const std::string where = str(where_, ", column ", columns[i].name);
        translated(where, [&] { read(columns[i], leaves[i], first, rows, where); });
      }
    }
    return rows;
  }

 private:
  void read(const Column& column,
            const Leaves& leaves,
            int64_t first,
            std::vector<Row>& rows,
            const std::string& where) {
    const auto count = static_cast<int64_t>(rows.size());
    const auto place = [&](std::size_t row) {
      return str(where, ", row ", first + static_cast<int64_t>(row), " of the group");
    };
    switch (column.kind) {
      case ColumnKind::kInteger:
        return read_numbers<parquet::Int64Type>(*leaf(leaves.value), first, column.name, rows);
      case ColumnKind::kReal:
        return read_numbers<parquet::DoubleType>(*leaf(leaves.value), first, column.name, rows);
      case ColumnKind::kText: {
        Texts texts = read_bytes(*leaf(leaves.value), first, count, kMaxTextBytes);
        for (std::size_t row = 0; row < rows.size(); ++row) {
          rows[row][column.name] = text_cell(std::move(texts[row]), place(row));
        }
        return;
      }
      case ColumnKind::kTensor: {
        auto shapes = read_lists(*leaf(leaves.shape), group_rows_);
        const Texts words = leaves.dtype < 0
                                ? Texts(rows.size())
                                : read_bytes(*leaf(leaves.dtype), first, count, kMaxTextBytes);
        Texts bytes = read_bytes(*leaf(leaves.value), first, count, kMaxTensorBytes);
        for (std::size_t row = 0; row < rows.size(); ++row) {
          rows[row][column.name] = tensor_cell(
              std::move(bytes[row]), std::move(shapes[static_cast<std::size_t>(first) + row]),
              words[row], place(row));
        }
        return;
      }
    }
  }

  std::shared_ptr<parquet::ColumnReader> leaf(int index) { return reader_->Column(index); }

  std::shared_ptr<parquet::RowGroupReader> reader_;
  std::string where_;
  int64_t group_rows_;
};

int64_t bytes_in(const std::vector<Row>& rows) {
  int64_t bytes = 0;
  for (const Row& row : rows) {
    for (const auto& [name, cell] : row) {
      if (const auto* tensor = std::get_if<TensorCell>(&cell)) {
        bytes += static_cast<int64_t>(tensor->bytes.size());
      } else if (const auto* text = std::get_if<std::string>(&cell)) {
        bytes += static_cast<int64_t>(text->size());
      }
    }
  }
  return bytes;
}

class ParquetRows final : public RowReader {
 public:
  ParquetRows(std::vector<Path> files, RowReaderOptions options) : options_(std::move(options)) {
    for (Path& file : files) {
      add(std::move(file));
    }
  }

  int64_t rows() const override { return first_rows_.back(); }
  int64_t rows_of(std::size_t file) const override {
    return first_rows_.at(file + 1) - first_rows_.at(file);
  }
  int64_t groups_decoded() const override { return groups_decoded_; }

  std::string place(int64_t index) const override {
    const Place at = find(index);
    return str(escape_control(files_[at.file].path.string()), ", row ",
               index - first_rows_[at.file]);
  }

  Row read(int64_t index) const override {
    const Place at = find(index);
    if (files_[at.file].group_bytes[at.group] > options_.cache_bytes) {
      return std::move(decode(at, at.row, 1).front());
    }
    return (*group_of(at))[static_cast<std::size_t>(at.row)];
  }

 private:
  struct File {
    Path path;
    Identity identity;
    std::vector<int64_t> group_ends;   // rows of the file before the end of each group
    std::vector<int64_t> group_bytes;  // of the wanted columns, as the footer says
  };
  struct Place {
    std::size_t file = 0, group = 0;
    int64_t row = 0;         // in the group
    int64_t group_rows = 0;  // of the group
  };
  using Group = std::shared_ptr<const std::vector<Row>>;
  using Key = std::pair<std::size_t, std::size_t>;
  struct Cached {
    std::shared_future<Group> group;
    std::list<Key>::iterator use;
    int64_t bytes = 0;  // 0: still being decoded
  };

  std::vector<Leaves> leaves_of(const OpenFile& file, const Path& path) const {
    const LeafFinder finder(*file.reader->metadata()->schema(), escape_control(path.string()));
    std::vector<Leaves> leaves;
    for (const Column& column : options_.columns) {
      leaves.push_back(finder.find(column));
    }
    return leaves;
  }

  void add(Path path) {
    const OpenFile opened = open_file(path, [](const Identity&) { return Footer(); });
    const std::string where = escape_control(path.string());
    const parquet::FileMetaData& metadata = *opened.reader->metadata();
    if (metadata.is_encryption_algorithm_set()) {
      throw_bad(where, "is encrypted");
    }
    const std::vector<Leaves> leaves = leaves_of(opened, path);
    File file{.path = std::move(path), .identity = opened.identity};
    int64_t rows = 0;
    for (int g = 0; g < metadata.num_row_groups(); ++g) {
      translated(where, [&] {
        const auto group = metadata.RowGroup(g);
        check_group(*group, leaves, str(where, ", row group ", g));
        rows += group->num_rows();
        int64_t bytes = 0;
        for (const Leaves& it : leaves) {
          bytes += it.value < 0 ? 0 : group->ColumnChunk(it.value)->total_uncompressed_size();
        }
        file.group_ends.push_back(rows);
        file.group_bytes.push_back(bytes);
      });
    }
    if (rows != metadata.num_rows()) {
      throw_bad(where, str("says ", metadata.num_rows(), " rows, its groups have ", rows));
    }
    files_.push_back(std::move(file));
    first_rows_.push_back(first_rows_.back() + rows);
  }

  Place find(int64_t index) const {
    invariant(index >= 0 && index < rows(), "a row's number is below their count");
    const auto after = std::upper_bound(first_rows_.begin(), first_rows_.end(), index);
    Place at;
    at.file = static_cast<std::size_t>(after - first_rows_.begin()) - 1;
    const int64_t in_file = index - first_rows_[at.file];
    const std::vector<int64_t>& ends = files_[at.file].group_ends;
    at.group = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), in_file) -
                                        ends.begin());
    const int64_t first = at.group == 0 ? 0 : ends[at.group - 1];
    at.row = in_file - first;
    at.group_rows = ends[at.group] - first;
    return at;
  }

  std::vector<Row> decode(const Place& at, int64_t first, int64_t count) const {
    const File& file = files_[at.file];
    const OpenFile opened = open_file(file.path, [&](const Identity& identity) {
      return identity == file.identity ? footers_.find(at.file) : Footer();
    });
    const std::string where = escape_control(file.path.string());
    if (opened.identity != file.identity) {
      throw InvalidInput(Code::kFileChanged,
                         str(where, ": changed while it was in use. Start again"));
    }
    footers_.keep(at.file, opened.reader->metadata());
    ++groups_decoded_;
    const std::vector<Leaves> leaves = leaves_of(opened, file.path);
    return translated(where, [&] {
      GroupDecoder decoder(opened, static_cast<int>(at.group), str(where, ", row group ", at.group),
                           at.group_rows);
      return decoder.decode(options_.columns, leaves, first, count);
    });
  }

  // Each group is decoded once, by the first thread that asks; the others wait for it.
  Group group_of(const Place& at) const {
    const Key key{at.file, at.group};
    std::promise<Group> promise;
    std::unique_lock lock(mutex_);
    const auto found = cache_.find(key);
    if (found != cache_.end()) {
      uses_.splice(uses_.begin(), uses_, found->second.use);
      const std::shared_future<Group> group = found->second.group;
      lock.unlock();
      return group.get();
    }
    uses_.push_front(key);
    cache_[key] = {promise.get_future().share(), uses_.begin(), 0};
    lock.unlock();
    try {
      auto rows = std::make_shared<const std::vector<Row>>(decode(at, 0, at.group_rows));
      promise.set_value(rows);
      keep(key, bytes_in(*rows));
      return rows;
    } catch (...) {
      promise.set_exception(std::current_exception());
      lock.lock();
      uses_.erase(cache_[key].use);
      cache_.erase(key);
      throw;
    }
  }

  // Lets the groups go that were not used for longest, never the one that was just made.
  void keep(const Key& key, int64_t bytes) const {
    const std::lock_guard lock(mutex_);
    cache_[key].bytes = bytes + 1;
    cached_bytes_ += bytes + 1;
    for (auto it = std::prev(uses_.end()); cached_bytes_ > options_.cache_bytes;) {
      const Key oldest = *it;
      const bool is_last = it == uses_.begin();
      const auto before = is_last ? it : std::prev(it);
      if (oldest != key && cache_[oldest].bytes > 0) {
        cached_bytes_ -= cache_[oldest].bytes;
        cache_.erase(oldest);
        uses_.erase(it);
      }
      if (is_last) {
        break;
      }
      it = before;
    }
  }

  RowReaderOptions options_;
  std::vector<File> files_;
  std::vector<int64_t> first_rows_{0};
  mutable Footers footers_;
  mutable std::mutex mutex_;
  mutable std::map<Key, Cached> cache_;
  mutable std::list<Key> uses_;  // last used first
  mutable int64_t cached_bytes_ = 0;
  mutable std::atomic<int64_t> groups_decoded_{0};
};

}  // namespace
}  // namespace fastwan::io

extern "C" std::unique_ptr<fastwan::io::RowReader> fastwan_open_rows(
    std::vector<fastwan::Path> files, fastwan::io::RowReaderOptions options) {
  return std::make_unique<fastwan::io::ParquetRows>(std::move(files), std::move(options));
}
