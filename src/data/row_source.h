// Parquet folders as a source.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "data/source.h"

namespace fastwan::data {

struct DataFolder {
  Path folder;          // or a single file
  int64_t repeats = 1;  // its rows count so many times in an epoch
};

// "dirA:2,dirB": folders with repeat factors. InvalidInput bad_value.
std::vector<DataFolder> parse_data_path(const std::string& text);

struct RowSourceOptions {
  int64_t cache_bytes = int64_t{1} << 30;  // decoded row groups that are kept, over all folders
};

// Parquet files as a source; place() names file and row. Index space: the rows of the first folder,
// as often as it says, then those of the second. `digest()` is a hash of sorted relative file
// names, row counts, sizes, samples of their bytes and repeat factors. IoError read_failed;
// InvalidInput bad_dataset for what open_rows() refuses and when there are no rows at all.
std::shared_ptr<const Source> open_row_source(const std::string& data_path,
                                              const RowSourceOptions& options = {});

}  // namespace fastwan::data
