#include "kernels/ordered_matmul/ordered_matmul.h"

namespace fastwan::kernels::ref {

void ordered_matmul(const OrderedMatmulArgs& args, double* out) {
  const auto& [G, M, N, K] = args.dims;
  const auto at = [](const Matrices& x, int64_t g, int64_t row, int64_t column) {
    return static_cast<double>(x.data[g * x.matrix + row * x.row + column * x.column]);
  };
  for (int64_t g = 0; g < G; ++g) {
    for (int64_t m = 0; m < M; ++m) {
      for (int64_t n = 0; n < N; ++n) {
        double sum = 0;
        for (int64_t i = 0; i < K; ++i) {
          sum += at(args.a, g, m, i) * at(args.b, g, i, n);
        }
        out[(g * M + m) * N + n] = sum;
      }
    }
  }
}

}  // namespace fastwan::kernels::ref
