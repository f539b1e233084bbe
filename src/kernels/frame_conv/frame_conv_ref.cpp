#include "kernels/frame_conv/frame_conv.h"

namespace fastwan::kernels::ref {

template <class Element>
void frame_conv(const FrameConvArgs<Element>& a) {
  const auto& [F, D, H, W, U, C, N] = a.dims;
  const int64_t T = F - D + 1;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t y = 0; y < U * H; ++y) {
      for (int64_t x = 0; x < U * W; ++x) {
        for (int64_t n = 0; n < N; ++n) {
          const int64_t at = ((t * U * H + y) * U * W + x) * a.out_pixel + n;
          double sum = static_cast<double>(a.bias[n]);
          sum += a.residual == nullptr ? 0.0 : static_cast<double>(a.residual[at]);
          for (int64_t tap = 0; tap < 9 * D; ++tap) {
            const int64_t d = tap / 9, v = y + tap / 3 % 3 - 1, h = x + tap % 3 - 1;
            const bool is_inside = v >= 0 && v < U * H && h >= 0 && h < U * W;
            if (!is_inside || a.frames[t + d] == nullptr) {
              continue;
            }
            const Element* pixel = a.frames[t + d] + (v / U * W + h / U) * C;
            const Element* weight = a.weight + n * a.weight_n + tap;
            for (int64_t c = 0; c < C; ++c) {
              sum += static_cast<double>(weight[c * a.weight_c]) * static_cast<double>(pixel[c]);
            }
          }
          a.out[at] = static_cast<Element>(sum);
        }
      }
    }
  }
}

template void frame_conv(const FrameConvArgs<double>&);
template void frame_conv(const FrameConvArgs<float>&);

}  // namespace fastwan::kernels::ref
