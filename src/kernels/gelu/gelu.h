// gelu: the Gaussian error linear unit in its tanh form, and its backward.
//
//   v      = 2 sqrt(2 / pi) (x + 0.044715 x^3)
//   out    = x / (1 + e^-v)                                      = x (1 + tanh(v / 2)) / 2
//   grad_x = grad_out (s + x s (1 - s) dv/dx),  s = 1 / (1 + e^-v)
//
// Layout   all [n] dense
// Types    float32; the reference double
// Aliases  out may be x, grad_x may be grad_out
// Cost     an exponential and a division an element; reads and writes each array once
#pragma once

#include <cstdint>

#include "kernels/common/range.h"

namespace fastwan::kernels {

template <class Element>
struct GeluArgs {
  const Element* x;
  Element* out;
};

template <class Element>
struct GeluBackwardArgs {
  const Element* grad_out;
  const Element* x;
  Element* grad_x;
};

namespace ref {
void gelu(const GeluArgs<double>& args, Range elements);
void gelu_backward(const GeluBackwardArgs<double>& args, Range elements);
}  // namespace ref
namespace cpu {
void gelu(const GeluArgs<float>& args, Range elements);
void gelu_backward(const GeluBackwardArgs<float>& args, Range elements);
}  // namespace cpu

}  // namespace fastwan::kernels
