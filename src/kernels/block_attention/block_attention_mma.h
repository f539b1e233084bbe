// The portable CUDA kernels behind block_attention: any GPU from sm_80 on, bf16 and fp16.
//
// Mathematics, dims, layout, padding and types as block_attention_sm90.h has them, in tiled order
// and without a gate; bf16 there is read as fp16 on request. Gradients are deterministic: one
// writer each.
#pragma once

#include "kernels/block_attention/block_attention_sm90.h"

namespace fastwan::kernels::cuda::mma {

enum class Format { kBf16, kFp16 };  // what the 16 bits of q, k, v, out and their gradients mean

void block_attention(const FineArgs& args, Format format, void* stream);

int64_t workspace_bytes(const FineBackwardArgs& args);
void block_attention_backward(const FineBackwardArgs& args,
                              Format format,
                              void* workspace,
                              void* stream);

}  // namespace fastwan::kernels::cuda::mma
