// rms_rotate: RMS norm over a whole row, a scale, then a rotation of interleaved pairs in each
// head.
//
//   y[i, c] = x[i, c] * weight[c] / sqrt(mean_c(x[i, c]^2) + eps)
//   out[i, h, 2j] + i out[i, h, 2j + 1] = (y[i, h, 2j] + i y[i, h, 2j + 1]) * rotation[i mod S, j]
//
// and its backward, with g = grad_out turned back (times the conjugate of rotation),
// n = x / sqrt(mean(x^2) + eps) and w = weight:
//
//   grad_x[i, c]   = (g w - n mean_c(g w n)) / sqrt(mean(x^2) + eps)
//   grad_weight[c] = sum over i of g n
//
// Dims     R rows, C = H * d channels of a row, d even, S rows of the rotation
// Layout   x, out, grad_out and grad_x [R, C] dense, weight [C], rotation [S, d/2] of (cos, sin) or
//          null: no rotation
// Types    CPU: float32; CUDA: float32 and bfloat16 with a float32 rotation, rounded before the
//          rotation and, where `rounds_norm`, before the weight. Sums in float32. The reference
//          also double
// Aliases  out may be x
// Order    grad_weight is summed over `parts` shares of the rows in a fixed order: the same bits on
//          every call
// Cost     forward reads and writes R*C elements, backward reads two and writes one: memory bound
#pragma once

#include <cstdint>

#include "kernels/common/bf16.h"
#include "kernels/common/range.h"

namespace fastwan::kernels {

template <class Element, class Wide = Element>
struct RmsRotateArgs {
  const Element* x;
  const Element* weight;
  const Wide* rotation;
  Element* out;
  int64_t C, d, S;
  double eps;
  bool rounds_norm = false;
};

template <class Element, class Wide = Element>
struct RmsRotateBackwardArgs {
  const Element* grad_out;
  const Element* x;
  const Element* weight;
  const Wide* rotation;
  Element* grad_x;
  int64_t C, d, S;
  double eps;
};

namespace ref {
template <class Element>
void rms_rotate(const RmsRotateArgs<Element>& args, Range rows);
// grad_weight [C] is added to.
void rms_rotate_backward(const RmsRotateBackwardArgs<double>& args,
                         double* grad_weight,
                         Range rows);
}  // namespace ref
namespace cpu {
void rms_rotate(const RmsRotateArgs<float>& args, Range rows);
// How many sums of the weight's gradient the backward writes: a matter of the shape alone.
int64_t rms_rotate_parts(int64_t R);
// A range of parts; grad_weight [parts, C]: its sum over parts is the gradient.
void rms_rotate_backward(const RmsRotateBackwardArgs<float>& args,
                         float* grad_weight,
                         int64_t R,
                         Range parts);
}  // namespace cpu
namespace cuda {
// Whether the kernels take rows of C channels in heads of d.
bool takes_rms_rotate(int64_t C, int64_t d);
// How many sums of the weight's gradient the backward writes.
int64_t rms_rotate_parts(int64_t R, int64_t C);

// On a stream; pointers to device memory, aligned for four elements.
void rms_rotate(const RmsRotateArgs<float, float>& args, int64_t R, void* stream);
void rms_rotate(const RmsRotateArgs<Bf16, float>& args, int64_t R, void* stream);
// grad_weight [parts, C]: its sum over parts is the gradient.
void rms_rotate_backward(const RmsRotateBackwardArgs<float, float>& args,
                         float* grad_weight,
                         int64_t R,
                         void* stream);
void rms_rotate_backward(const RmsRotateBackwardArgs<Bf16, float>& args,
                         float* grad_weight,
                         int64_t R,
                         void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
