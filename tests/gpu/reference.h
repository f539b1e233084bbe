// Block attention on the host, in double precision: exact, or with the roundings of the bf16
// kernels.
#pragma once

#include <vector>

#include "tests/gpu/problem.h"

namespace fastwan::gpu {

enum class Rounding { kNone, kAsKernel };  // weights and dS to bf16

struct Results {
  std::vector<double> out, lse;    // [B, H, queries, D], [B, H, queries]: tokens tile by tile
  std::vector<double> dq, dk, dv;  // [B, H, queries or keys, D]; empty unless wanted
};

struct Wanted {
  bool gate = false;
  bool gradients = false;
  int64_t every = 1;  // of the query tiles of each head; others keep NaN. Gradients need 1
};

Results reference(const Problem& p, Rounding rounding, const Wanted& wanted);

// A device result in the same order.
std::vector<double> gather(const Problem& p, const std::vector<Bf16>& x, const TileTokens& at);
std::vector<double> gather_lse(const Problem& p, const std::vector<float>& lse);

}  // namespace fastwan::gpu
