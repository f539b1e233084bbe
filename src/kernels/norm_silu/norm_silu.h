// norm_silu: RMS norm over the channels, a scale, then SiLU, in one pass.
//
//   out[i, c] = silu(x[i, c] * (sqrt(C) / max(|x[i]|, 1e-12)) * gamma[c]),  silu(v) = v / (1 +
//   e^-v)
//
// Dims     R rows, C channels
// Layout   x and out [R, C] dense, gamma [C]
// Types    float32, sums in float32; the reference also double
// Aliases  out may be x
// Cost     reads and writes R*C elements: memory bound
#pragma once

#include <cstdint>

#include "kernels/common/range.h"

namespace fastwan::kernels {

template <class Element>
struct NormSiluArgs {
  const Element* x;
  const Element* gamma;
  Element* out;
  int64_t C;
};

namespace ref {
template <class Element>
void norm_silu(const NormSiluArgs<Element>& args, Range rows);
}
namespace cpu {
void norm_silu(const NormSiluArgs<float>& args, Range rows);
}

}  // namespace fastwan::kernels
