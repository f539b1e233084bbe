// How tensors look to kernels, and in which type sums are made.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include "kernels/common/bf16.h"

namespace fastwan::ops {

// The type that holds sums: float32; float64 for float64.
inline at::ScalarType sum_type(const at::Tensor& x) {
  return at::toOpMathType(x.scalar_type());
}

// Whether the CPU kernels have this type; others take the plain version.
inline bool has_cpu_kernel(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

template <class Element>
const Element* read(const at::Tensor& x) {
  return static_cast<const Element*>(x.const_data_ptr());
}

template <class Element>
Element* write(const at::Tensor& x) {
  return static_cast<Element*>(x.mutable_data_ptr());
}

// Calls body(Element()) with the kernels' name for the tensor's type.
template <class Body>
auto with_element(const at::Tensor& x, const Body& body) {
  if (x.scalar_type() == at::kBFloat16) {
    return body(kernels::Bf16());
  }
  return body(float());
}

}  // namespace fastwan::ops
