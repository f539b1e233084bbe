// residual_norm: a gated residual sum and the layer norm of it, in one pass.
//
//   sum[i, c]  = x[i, c] + gate[i div S, c] * y[i, c]
//   norm[i, c] = (r - mean_c(r)) / sqrt(var_c(r) + eps)          r = sum, or sum in its type
//   out[i, c]  = norm[i, c] * (one + scale[i div S, c]) + shift[i div S, c]
//
// and its backward, with grads of sum and out, w = one + scale, g = grad_out w and
// d = (g - mean_c(g) - norm mean_c(g norm)) / sqrt(var + eps) + grad_sum:
//
//   grad_x[i, c] = d            grad_y[i, c] = gate d
//   grad_gate[b, c], grad_scale[b, c], grad_shift[b, c] =
//       sums over the S rows of b of d y, grad_out norm, grad_out
//
// Dims     R = B * S rows of C channels; S rows share a gate, a scale and a shift
// Layout   x, y, sum, out and their gradients [R, C] dense; gate, scale and shift [B, C] with a
//          stride between rows, 0 where all rows share one
// Absent   (null) y: no sum, x is read as it is; gate: y counts as it is; scale and shift: no norm.
//          A null gradient counts as zeros, a null result is not written
// Types    CPU: float32; CUDA: float32 and bfloat16, gate, scale and shift float32; sums in
//          float32. `rounds_norm` rounds the norm before it is scaled, `reads_rounded` the sum
//          before it is normed: nothing to round in float32
// Order    gradients over rows are summed over `parts` shares in a fixed order: the same bits on
//          every call
// Cost     reads and writes each [R, C] that is given once: memory bound
#pragma once

#include <cstdint>

#include "kernels/common/bf16.h"
#include "kernels/common/range.h"

namespace fastwan::kernels {

// Rows of modulation: [B, C], `stride` elements apart.
template <class Wide>
struct PerSample {
  const Wide* data = nullptr;
  int64_t stride = 0;
};

template <class Wide>
struct ResidualNormRule {
  PerSample<Wide> gate, scale, shift;
  int64_t B = 1, S = 1, C = 0;
  double eps = 0;
  bool adds_one = false;  // one + scale with one = 1, else 0
  bool rounds_norm = false, reads_rounded = false;
};

template <class Element, class Wide>
struct ResidualNormArgs {
  const Element* x = nullptr;
  const Element* y = nullptr;
  Element* sum = nullptr;
  Element* out = nullptr;
  ResidualNormRule<Wide> rule;
};

template <class Element, class Wide>
struct ResidualNormBackwardArgs {
  const Element* grad_sum = nullptr;
  const Element* grad_out = nullptr;
  const Element* x = nullptr;
  const Element* y = nullptr;
  Element* grad_x = nullptr;
  Element* grad_y = nullptr;
  ResidualNormRule<Wide> rule;
};

namespace ref {
void residual_norm(const ResidualNormArgs<double, double>& args);
// grads [B, 3, C]: of gate, scale and shift, are added to.
void residual_norm_backward(const ResidualNormBackwardArgs<double, double>& args, double* grads);
}  // namespace ref

namespace cpu {
// How many sums of each sample's rows the backward writes: a matter of the shape alone.
int64_t residual_norm_parts(int64_t S);
// `rows` counts b * S + s; sum is given where y is, and may be y.
void residual_norm(const ResidualNormArgs<float, float>& args, Range rows);
// `parts` counts b * residual_norm_parts + part; grads [B, parts, 3, C]: their sums over parts are
// the gradients of gate, scale and shift. row: scratch, C floats.
void residual_norm_backward(const ResidualNormBackwardArgs<float, float>& args,
                            float* grads,
                            float* row,
                            Range parts);
}  // namespace cpu

namespace cuda {
// Whether the kernels take rows of C channels.
bool takes_residual_norm(int64_t C);
// How many sums of each sample's rows the backward writes.
int64_t residual_norm_parts(int64_t B, int64_t S, int64_t C);

// On a stream; pointers to device memory, aligned for four elements.
void residual_norm(const ResidualNormArgs<float, float>& args, void* stream);
void residual_norm(const ResidualNormArgs<Bf16, float>& args, void* stream);
// grads [B, parts, 3, C]: their sums over parts are the gradients of gate, scale and shift.
void residual_norm_backward(const ResidualNormBackwardArgs<float, float>& args,
                            float* grads,
                            void* stream);
void residual_norm_backward(const ResidualNormBackwardArgs<Bf16, float>& args,
                            float* grads,
                            void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
