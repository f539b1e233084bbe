// What each file of libfastwan_ops_cuda.so registers.
#pragma once

#include <torch/library.h>

namespace fastwan::ops {

void register_tile_mean_cuda(torch::Library& m);
void register_block_select_cuda(torch::Library& m);
void register_block_attention_cuda(torch::Library& m);
void define_video_sparse_attn_cuda(torch::Library& m);
void register_video_sparse_attn_cuda(torch::Library& m);
void define_norm_silu_cuda(torch::Library& m);
void register_norm_silu_cuda(torch::Library& m);
void define_residual_norm_cuda(torch::Library& m);
void register_residual_norm_cuda(torch::Library& m);
void define_rms_rotate_cuda(torch::Library& m);
void register_rms_rotate_cuda(torch::Library& m);
void define_sample_noise_cuda(torch::Library& m);
void register_sample_noise_cuda(torch::Library& m);

}  // namespace fastwan::ops
