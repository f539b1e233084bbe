#include <algorithm>
#include <cmath>

#include "kernels/norm_silu/norm_silu.h"

namespace fastwan::kernels::ref {

template <class Element>
void norm_silu(const NormSiluArgs<Element>& a, Range rows) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const Element* x = a.x + i * a.C;
    double squares = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      squares += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    }
    const double scale = std::sqrt(static_cast<double>(a.C)) / std::max(std::sqrt(squares), 1e-12);
    for (int64_t c = 0; c < a.C; ++c) {
      const double v = static_cast<double>(x[c]) * scale * static_cast<double>(a.gamma[c]);
      a.out[i * a.C + c] = static_cast<Element>(v / (1 + std::exp(-v)));
    }
  }
}

template void norm_silu(const NormSiluArgs<double>&, Range);
template void norm_silu(const NormSiluArgs<float>&, Range);

}  // namespace fastwan::kernels::ref
