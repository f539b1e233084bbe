// norm_silu: RMS norm over the channels, a scale, then SiLU, in one pass.
//
//   out[i, c] = silu(x[i, c] * (sqrt(C) / max(|x[i]|, 1e-12)) * gamma[c])
//   silu(v)   = v / (1 + e^-v)
//
// and its backward, with s = sqrt(C) / max(|x[i]|, 1e-12), v = s x gamma and
// g = grad_out silu'(v) gamma, silu'(v) = sigmoid(v) (1 + v (1 - sigmoid(v))):
//
//   grad_x[i, c]  = s (g[c] - x[c] <g, x> / |x|^2), the second term only where |x| >= 1e-12
//   grad_gamma[c] = sum over i of grad_out silu'(v) s x
//
// Dims     R rows, C channels
// Layout   x, out, grad_out and grad_x [R, C] dense, gamma [C]
// Types    CPU: float32; CUDA: also bfloat16, which diffusers' four roundings make: after the norm,
//          the root, gamma and silu. Sums in float32. The reference also double.
// Aliases  out may be x
// Order    grad_gamma is summed over `parts` shares of the rows in a fixed order: the same bits on
//          every call
// Cost     forward reads and writes R*C elements, backward reads two and writes one: memory bound
#pragma once

#include <cstdint>

#include "kernels/common/bf16.h"
#include "kernels/common/range.h"

namespace fastwan::kernels {

template <class Element>
struct NormSiluArgs {
  const Element* x;
  const Element* gamma;
  Element* out;
  int64_t C;
};

template <class Element>
struct NormSiluBackwardArgs {
  const Element* grad_out;
  const Element* x;
  const Element* gamma;
  Element* grad_x;
  int64_t C;
};

namespace ref {
template <class Element>
void norm_silu(const NormSiluArgs<Element>& args, Range rows);
// grad_gamma [C] is added to.
void norm_silu_backward(const NormSiluBackwardArgs<double>& args, double* grad_gamma, Range rows);
}  // namespace ref
namespace cpu {
void norm_silu(const NormSiluArgs<float>& args, Range rows);
}
namespace cuda {
inline constexpr int64_t kNormSiluMaxChannels = 1024;
// Whether the kernels take rows of C channels.
inline bool takes_norm_silu(int64_t C) {
  return C > 0 && C % 4 == 0 && C <= kNormSiluMaxChannels;
}
// How many sums of gamma's gradient the backward writes.
int64_t norm_silu_parts(int64_t R, int64_t C);

// On a stream; pointers to device memory, 8 bytes aligned for bfloat16 and 16 for float32.
void norm_silu(const NormSiluArgs<float>& args, int64_t R, void* stream);
void norm_silu(const NormSiluArgs<Bf16>& args, int64_t R, void* stream);
// grad_gamma [parts, C]: its sum over parts is the gradient.
void norm_silu_backward(const NormSiluBackwardArgs<float>& args,
                        float* grad_gamma,
                        int64_t R,
                        void* stream);
void norm_silu_backward(const NormSiluBackwardArgs<Bf16>& args,
                        float* grad_gamma,
                        int64_t R,
                        void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
