#include "kernels/tile_mean/tile_mean.h"

namespace fastwan::kernels::ref {

template <class Element>
void tile_mean(const TileMeanArgs<Element>& a) {
  const auto& [B, N, T, H, D] = a.dims;
  const int64_t row = H * D;
  for (int64_t bn = 0; bn < B * N; ++bn) {
    const int32_t len = a.len[bn % N];
    for (int64_t c = 0; c < row; ++c) {
      double sum = 0;
      for (int64_t t = 0; t < len; ++t) {
        sum += to_double(a.x[(bn * T + t) * row + c]);
      }
      store(sum / len, &a.out[bn * row + c]);
    }
  }
}

template void tile_mean(const TileMeanArgs<double>&);
template void tile_mean(const TileMeanArgs<float>&);
template void tile_mean(const TileMeanArgs<Bf16>&);

}  // namespace fastwan::kernels::ref
