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

void norm_silu_backward(const NormSiluBackwardArgs<double>& a, double* grad_gamma, Range rows) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const double* x = a.x + i * a.C;
    const double* grad_out = a.grad_out + i * a.C;
    double squares = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      squares += x[c] * x[c];
    }
    const double length = std::sqrt(squares);
    const double scale = std::sqrt(static_cast<double>(a.C)) / std::max(length, 1e-12);
    const auto grad_scaled = [&](int64_t c) {  // to s x gamma
      const double v = x[c] * scale * a.gamma[c], sigmoid = 1 / (1 + std::exp(-v));
      return grad_out[c] * sigmoid * (1 + v * (1 - sigmoid));
    };
    double along = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      along += grad_scaled(c) * a.gamma[c] * x[c];
      grad_gamma[c] += grad_scaled(c) * scale * x[c];
    }
    const double share = length < 1e-12 ? 0.0 : along / squares;
    for (int64_t c = 0; c < a.C; ++c) {
      a.grad_x[i * a.C + c] = scale * (grad_scaled(c) * a.gamma[c] - x[c] * share);
    }
  }
}

template void norm_silu(const NormSiluArgs<double>&, Range);
template void norm_silu(const NormSiluArgs<float>&, Range);

}  // namespace fastwan::kernels::ref
