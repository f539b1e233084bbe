// What each operator's file registers; registry.cpp is the table of contents.
#pragma once

#include <torch/library.h>

namespace fastwan::ops {

void register_tile_mean_plain(torch::Library& m);
void register_tile_mean_cpu(torch::Library& m);
void register_tile_mean_autograd(torch::Library& m);

void register_coarse_plain(torch::Library& m);
void register_coarse_cpu(torch::Library& m);
void register_coarse_autograd(torch::Library& m);

void register_block_select_plain(torch::Library& m);

void register_block_attention_plain(torch::Library& m);
void register_block_attention_cpu(torch::Library& m);
void register_block_attention_meta(torch::Library& m);
void register_block_attention_autograd(torch::Library& m);

void register_tiles(torch::Library& m);
void register_video_sparse_attn(torch::Library& m);

}  // namespace fastwan::ops
