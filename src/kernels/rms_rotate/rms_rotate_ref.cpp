#include <cmath>
#include <vector>

#include "kernels/rms_rotate/rms_rotate.h"

namespace fastwan::kernels::ref {

template <class Element>
void rms_rotate(const RmsRotateArgs<Element>& a, Range rows) {
  std::vector<double> y(static_cast<std::size_t>(a.C));
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const Element* x = a.x + i * a.C;
    double squares = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      squares += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(a.C) + a.eps);
    for (int64_t c = 0; c < a.C; ++c) {
      y[static_cast<std::size_t>(c)] =
          static_cast<double>(x[c]) * scale * static_cast<double>(a.weight[c]);
    }
    for (int64_t c = 0; c < a.C; c += 2) {
      const auto pair = static_cast<std::size_t>(c);
      double cosine = 1, sine = 0;
      if (a.rotation != nullptr) {
        const Element* rotation = a.rotation + i % a.S * a.d + c % a.d;
        cosine = static_cast<double>(rotation[0]);
        sine = static_cast<double>(rotation[1]);
      }
      a.out[i * a.C + c] = static_cast<Element>(y[pair] * cosine - y[pair + 1] * sine);
      a.out[i * a.C + c + 1] = static_cast<Element>(y[pair] * sine + y[pair + 1] * cosine);
    }
  }
}

void rms_rotate_backward(const RmsRotateBackwardArgs<double>& a, double* grad_weight, Range rows) {
  const auto C = static_cast<double>(a.C);
  std::vector<double> g(static_cast<std::size_t>(a.C));
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const double *x = a.x + i * a.C, *grad_out = a.grad_out + i * a.C;
    double squares = 0, along = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      squares += x[c] * x[c];
    }
    const double scale = 1 / std::sqrt(squares / C + a.eps);
    for (int64_t c = 0; c < a.C; c += 2) {
      double cosine = 1, sine = 0;
      if (a.rotation != nullptr) {
        cosine = a.rotation[i % a.S * a.d + c % a.d];
        sine = a.rotation[i % a.S * a.d + c % a.d + 1];
      }
      const auto pair = static_cast<std::size_t>(c);
      g[pair] = grad_out[c] * cosine + grad_out[c + 1] * sine;
      g[pair + 1] = grad_out[c + 1] * cosine - grad_out[c] * sine;
    }
    for (int64_t c = 0; c < a.C; ++c) {
      const double of_row = g[static_cast<std::size_t>(c)];
      grad_weight[c] += of_row * x[c] * scale;
      along += of_row * a.weight[c] * x[c] * scale / C;
    }
    for (int64_t c = 0; c < a.C; ++c) {
      a.grad_x[i * a.C + c] =
          (g[static_cast<std::size_t>(c)] * a.weight[c] - x[c] * scale * along) * scale;
    }
  }
}

template void rms_rotate(const RmsRotateArgs<double>&, Range);
template void rms_rotate(const RmsRotateArgs<float>&, Range);

}  // namespace fastwan::kernels::ref
