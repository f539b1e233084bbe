// frame_conv: 3x3 convolution of frames, over up to all their times, optionally of frames twice as
// high and wide.
//
//   out[t, y, x, n] = bias[n] + residual[t, y, x, n]
//                   + sum_{d, i, j, c} weight[n, c, d, i, j] * up[t + d, y + i - 1, x + j - 1, c]
//   up[f, y, x, c] = frames[f][y / U, x / U, c] inside [0, U*H) x [0, U*W), else 0
//
// Dims     F input frames, D taps in time, T = F - D + 1 output frames, H W height and width of an
//          input frame, U 1 or 2, C input channels, N output channels
// Layout   a frame [H, W, C], weight [N, C, D, 3, 3] with strides for N and C, bias [N],
//          residual and out [T, U*H, U*W, N] with a stride for pixels; dense, last dimension
//          innermost
// Types    float32; sums in float32. The reference also double
// Padding  a null frame counts as zeros and costs nothing; null frames come first
// Cost     2 * 2.25 * D * C * N operations a pixel instead of 2 * 9 * D * C * N
//
// Source   Winograd's F(4x4, 3x3): Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
//          Networks". Points 0, +-5/8, +-3/2 and infinity instead of 0, +-1, +-2: a third of the
//          rounding error (docs/kernels/frame_conv.md), at most twice that of the direct sum
#pragma once

#include <cstdint>

#include "kernels/common/range.h"

namespace fastwan::kernels {

struct FrameConvDims {
  int64_t F, D, H, W, U, C, N;
};

template <class Element>  // float; the reference also double
struct FrameConvArgs {
  const Element* const* frames;  // F pointers
  const Element* weight;
  int64_t weight_n, weight_c;  // strides
  const Element* bias;
  const Element* residual;  // or null; may be `out`
  Element* out;
  int64_t out_pixel;  // stride from pixel to pixel of residual and out: N or more
  FrameConvDims dims;
};

namespace ref {
template <class Element>
void frame_conv(const FrameConvArgs<Element>& args);
}
// Weights are transformed first, piece by piece, then blocks of pixels are independent pieces.
namespace cpu {
struct FrameConvPlan {
  int64_t transformed_floats;  // of the weights, aligned to 64 bytes
  int64_t weight_pieces;
  int64_t scratch_floats;  // of one worker, aligned to 64 bytes
  int64_t blocks;
};
FrameConvPlan plan_frame_conv(const FrameConvDims& dims);
void transform_weights(const FrameConvArgs<float>& args, float* transformed, Range pieces);
void frame_conv(const FrameConvArgs<float>& args,
                const float* transformed,
                float* scratch,
                Range blocks);
}  // namespace cpu

}  // namespace fastwan::kernels
