// For tests: Video Sparse Attention token by token in double precision, in plain loops; shares no
// code with the operators.
#pragma once

#include <cstdint>
#include <vector>

namespace fastwan::ops::reference {

struct Inputs {                 // one batch entry and head, raster order
  int64_t T, H, W, D;           // token grid with 4x4x4 tiles, head size
  std::vector<double> q, k, v;  // [S, D]
  std::vector<double> gate;     // [S, D], empty: no coarse term
};

struct Result {
  std::vector<double> out;                   // [S, D]
  std::vector<std::vector<int64_t>> chosen;  // key tiles of each query tile, ascending
  double smallest_gap;  // between the last score taken and the first left out, over all rows
};

Result video_sparse_attn(const Inputs& in, int64_t topk);

}  // namespace fastwan::ops::reference
