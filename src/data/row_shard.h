// A shard of rows in the making: files of a fixed number of rows and a manifest, so that a run
// which ended anywhere goes on where it was.
//
//   <folder>/data_chunk_00000.parquet, data_chunk_00001.parquet, ...
//   <folder>/manifest.json   written at the start and anew after each file, durably: per file its
//                            name, rows, bytes, sha256 and the first input that it does not cover;
//                            and what the rows depend on
//
// A file counts only if the manifest lists it and its size and sha256 are as listed. What was begun
// and is not listed is made again. Inputs are taken in order, each leads to one row or to none: so
// each id comes exactly once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "io/parquet.h"

namespace fastwan::data {

// [first, last) of `total` inputs in contiguous shares that differ by one at most.
std::pair<int64_t, int64_t> share_of(int64_t total, int64_t shard, int64_t shards);

// Inputs, parts of the model, settings: each by a name for messages and its value or digest.
using Dependencies = std::vector<std::pair<std::string, std::string>>;

// The dependency that names the shard, "i/n". With it the folder is worker_<i>, and folders beside
// it must be of the same rows: other shards of as many, alike in all else.
inline constexpr const char* kShardName = "--shard";

struct RowShardOptions {
  io::RowSchema schema = io::RowSchema::kT2v;
  int64_t first_input = 0;  // inputs [first_input, last_input) belong to this shard
  int64_t last_input = 0;
  int64_t rows_per_file = 64;
  int64_t group_rows = 8;
  Dependencies depends_on;  // of the rows: a shard goes on only under the same
};

using Counts = std::map<std::string, int64_t>;  // reason -> inputs that gave no row

class RowShard {
 public:
  // Makes the folder, or takes up what lies there. Failure exists: another process works on it, or
  // it or a shard beside it was begun with something else in depends_on, which is named.
  RowShard(const Path& folder, const RowShardOptions& options);
  ~RowShard();  // what is not yet in a listed file is gone
  RowShard(const RowShard&) = delete;
  RowShard& operator=(const RowShard&) = delete;

  // The input to go on with; last_input when all is done.
  int64_t next_input() const;
  // What becomes of next_input(). A full file is closed and listed.
  void add(const io::Row& row);
  void leave_out(const std::string& reason);
  // All inputs are through: the last file is closed, however few rows it has, and listed.
  void finish();

  int64_t rows() const;            // in listed files and in the one being written
  int64_t rows_found() const;      // of those, made by earlier runs
  const Counts& left_out() const;  // by reason, earlier runs' included

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastwan::data
