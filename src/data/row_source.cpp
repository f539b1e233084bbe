#include "data/row_source.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "data/rows.h"
#include "io/parquet.h"

namespace fastwan::data {
namespace {

// Size, beginning, middle and end of a file: what tells it from another of as many rows, without
// reading all of it.
void add_samples(Sha256& digest, const Path& file) {
  constexpr int64_t kSample = 16384;  // bytes
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  const auto size = static_cast<int64_t>(in.tellg());
  if (size < 0) {
    throw_io_error(errno, file, "read");
  }
  digest.update(str(size, '\0'));
  std::string bytes(kSample, '\0');
  for (const int64_t first : {int64_t{0}, (size - kSample) / 2, size - kSample}) {
    in.clear();
    in.seekg(std::max<int64_t>(first, 0));
    in.read(bytes.data(), kSample);
    if (in.bad()) {
      throw_io_error(errno, file, "read");
    }
    digest.update(std::string_view(bytes).substr(0, static_cast<std::size_t>(in.gcount())));
  }
}

class ParquetRows final : public Source {
 public:
  ParquetRows(const std::vector<DataFolder>& folders, const RowSourceOptions& options) {
    Sha256 digest;
    const int64_t cache_share = options.cache_bytes / static_cast<int64_t>(folders.size());
    for (const DataFolder& it : folders) {
      const std::vector<Path> files = io::parquet_files(it.folder);
      Part part{
          .rows = io::open_rows(files, {.columns = training_columns(), .cache_bytes = cache_share}),
          .first = size_};
      for (std::size_t f = 0; f < files.size(); ++f) {
        digest.update(str(files[f].lexically_relative(it.folder).string(), '\0',
                          part.rows->rows_of(f), '\0'));
        add_samples(digest, files[f]);
      }
      digest.update(str("x", it.repeats, '\n'));
      size_ += part.rows->rows() * it.repeats;
      parts_.push_back(std::move(part));
    }
    digest_ = digest.hex();
    if (size_ == 0) {
      std::vector<std::string> names;
      for (const DataFolder& it : folders) {
        names.push_back(it.folder.string());
      }
      throw InvalidInput(Code::kBadDataset, str(join_first(names, 10), ": the files hold no rows"));
    }
  }

  int64_t size() const override { return size_; }
  std::string digest() const override { return digest_; }

  Example get(int64_t index) const override {
    const auto [rows, row] = find(index);
    return example_of(rows->read(row), rows->place(row));
  }

  std::string place(int64_t index) const override {
    const auto [rows, row] = find(index);
    return rows->place(row);
  }

 private:
  struct Part {
    std::unique_ptr<io::RowReader> rows;
    int64_t first = 0;  // its first index
  };

  std::pair<const io::RowReader*, int64_t> find(int64_t index) const {
    invariant(index >= 0 && index < size_, "an example's index is inside its source");
    const auto after =
        std::upper_bound(parts_.begin(), parts_.end(), index,
                         [](int64_t wanted, const Part& part) { return wanted < part.first; });
    const Part& part = *std::prev(after);
    return {part.rows.get(), (index - part.first) % part.rows->rows()};
  }

  std::vector<Part> parts_;
  int64_t size_ = 0;
  std::string digest_;
};

}  // namespace

std::vector<DataFolder> parse_data_path(const std::string& text) {
  std::vector<DataFolder> folders;
  for (const std::string& word : split(text, ',')) {
    DataFolder folder{.folder = std::string(trim(word))};
    const std::size_t colon = word.rfind(':');
    if (colon != std::string::npos) {
      folder.folder = std::string(trim(word.substr(0, colon)));
      const auto repeats = parse_int(trim(std::string_view(word).substr(colon + 1)));
      folder.repeats = repeats.value_or(0);
    }
    if (folder.folder.empty() || folder.repeats < 1) {
      throw InvalidInput(Code::kBadValue,
                         str("a data path is FOLDER or FOLDER:TIMES, several with commas between, "
                             "got ",
                             escape_control(text)));
    }
    folders.push_back(std::move(folder));
  }
  return folders;
}

std::shared_ptr<const Source> open_row_source(const std::string& data_path,
                                              const RowSourceOptions& options) {
  return std::make_shared<ParquetRows>(parse_data_path(data_path), options);
}

}  // namespace fastwan::data
