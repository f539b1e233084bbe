// How many key tiles a query tile of VSA attends to. Torch-free: the planner counts with it too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::ops {

inline constexpr int64_t kTileSide = 4;
inline constexpr int64_t kTileSlots = kTileSide * kTileSide * kTileSide;

// `kept`: how many tiles the formula asks for, as a real number.
inline int64_t tiles_kept(double sparsity, double kept, int64_t num_tiles) {
  if (!(sparsity >= 0.0 && sparsity <= 1.0)) {
    throw InvalidInput(Code::kBadValue, str("VSA sparsity must lie in [0, 1], got ", sparsity));
  }
  if (num_tiles < 1) {
    throw InvalidInput(Code::kBadValue, str("VSA needs at least one key tile, got ", num_tiles));
  }
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(kept)), 1, num_tiles);
}

// Key tiles kept for each query tile: ceil((1 - sparsity) N) in double, within [1, N].
inline int64_t vsa_topk(double sparsity, int64_t num_tiles) {
  return tiles_kept(sparsity, (1.0 - sparsity) * static_cast<double>(num_tiles), num_tiles);
}

// The rule of the first FastWan release: ceil((1 - sparsity) S / 64), within [1, N].
inline int64_t vsa_topk_unpadded(double sparsity, int64_t num_tokens, int64_t num_tiles) {
  const double kept =
      (1.0 - sparsity) * static_cast<double>(num_tokens) / static_cast<double>(kTileSlots);
  return tiles_kept(sparsity, kept, num_tiles);
}

}  // namespace fastwan::ops
