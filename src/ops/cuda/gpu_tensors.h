// What the GPU kernels ask of tensors, and how tensors are handed to them.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/block_attention/block_attention.h"
#include "kernels/common/fp16.h"
#include "ops/cuda/select.h"
#include "ops/element.h"

namespace fastwan::ops {

Capability capability_of(const at::Tensor& x);

// The tensor itself, or a dense copy if its rows cannot be copied 16 bytes at a time.
at::Tensor for_copy_engine(const at::Tensor& x);  // [B, S, H, D], elements of two bytes

// Dense and aligned for loads of four elements: the tensor itself, or a copy.
at::Tensor dense_rows(const at::Tensor& x);

void* current_stream(const at::Tensor& x);

at::Tensor workspace_for(const at::Tensor& x, int64_t bytes);

template <class Element>
kernels::Tokens<Element> tokens_of(const at::Tensor& x, Element* data) {
  return {.data = data, .batch = x.stride(0), .token = x.stride(1), .head = x.stride(2)};
}

inline kernels::Tokens<const kernels::Bf16> read_tokens(const at::Tensor& x) {
  return tokens_of(x, read<kernels::Bf16>(x));
}

inline kernels::Tokens<kernels::Bf16> write_tokens(const at::Tensor& x) {
  return tokens_of(x, write<kernels::Bf16>(x));
}

// Whether the kernels of tile_mean and block_select have this type.
inline bool has_gpu_kernel(const at::Tensor& x) {
  return has_cpu_kernel(x) || x.scalar_type() == at::kHalf;
}

// Calls body(Element()) with the kernels' name for the tensor's type.
template <class Body>
auto with_gpu_element(const at::Tensor& x, const Body& body) {
  if (x.scalar_type() == at::kHalf) {
    return body(kernels::Fp16());
  }
  return with_element(x, body);
}

}  // namespace fastwan::ops
