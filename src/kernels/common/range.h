// A part of the independent pieces of an operation: the caller splits them over threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastwan::kernels {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Sums over rows are made in parts, a row of sums each: 128 rows are a share of work worth a thread
// and little to write.
inline int64_t parts_of_rows(int64_t rows) {
  constexpr int64_t kRows = 128;
  return std::max<int64_t>(1, rows / kRows);
}
// The rows of a part.
inline Range rows_of_part(int64_t rows, int64_t part) {
  const int64_t parts = parts_of_rows(rows);
  return {.begin = part * rows / parts, .end = (part + 1) * rows / parts};
}

}  // namespace fastwan::kernels
