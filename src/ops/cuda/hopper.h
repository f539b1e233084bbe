// What the Hopper kernels ask of tensors, and how tensors are handed to them.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/block_attention/block_attention.h"
#include "ops/element.h"

namespace fastwan::ops {

// bf16, head size 64 or 128, on a GPU of compute capability 9.0.
bool hopper_takes(const at::Tensor& q);

// The tensor itself, or a dense copy if its strides or address do not suit the copy engine.
at::Tensor for_copy_engine(const at::Tensor& x);  // [B, S, H, D]

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

}  // namespace fastwan::ops
