// The operators of libfastwan_ops.so: every schema, and which device has its own implementation.
//
// CompositeExplicitAutograd is the plain version: any device, Meta included. CompositeImplicit-
// Autograd operators are made of the others and get their gradients from them. Autocast changes
// nothing: operators compute in the type they are given.
#include "ops/registry.h"

namespace fastwan::ops {

TORCH_LIBRARY(fastwan, m) {
  m.def("tile_mean(Tensor x, Tensor len, int T) -> Tensor");
  m.def("_tile_mean_backward(Tensor grad_out, Tensor len, int T) -> Tensor");

  m.def("_ordered_matmul(Tensor a, Tensor b) -> Tensor");
  m.def("_row_softmax(Tensor x) -> Tensor");

  m.def("block_select(Tensor scores, int topk) -> Tensor");

  m.def(
      "block_attention(Tensor q, Tensor k, Tensor v, Tensor block_index, Tensor block_count, "
      "Tensor q_sizes, Tensor kv_sizes, float? scale=None) -> (Tensor out, Tensor lse)");
  m.def(
      "_block_attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, "
      "Tensor out, Tensor lse, Tensor block_index, Tensor block_count, Tensor q_sizes, "
      "Tensor kv_sizes, float? scale=None) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)");

  m.def("vsa_topk(float sparsity, int num_tiles) -> int");
  m.def("vsa_topk_unpadded(float sparsity, int num_tokens, int num_tiles) -> int");
  m.def(
      "vsa_tile_index(int t, int h, int w) -> (Tensor tile_index, Tensor non_pad, "
      "Tensor tile_sizes)");

  m.def(
      "video_sparse_attn_raster(Tensor q, Tensor k, Tensor v, Tensor? gate, int[3] grid, int topk, "
      "int[3] tile=[4, 4, 4], float? scale=None) -> Tensor");
  m.def(
      "video_sparse_attn(Tensor q, Tensor k, Tensor v, Tensor variable_block_sizes, "
      "Tensor q_variable_block_sizes, int topk, int[] block_size=[4, 4, 4], "
      "Tensor? compress_attn_weight=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(fastwan, CompositeExplicitAutograd, m) {
  register_tile_mean_plain(m);
  register_coarse_plain(m);
  register_block_select_plain(m);
  register_block_attention_plain(m);
}

TORCH_LIBRARY_IMPL(fastwan, Meta, m) {
  register_block_attention_meta(m);
}

TORCH_LIBRARY_IMPL(fastwan, CPU, m) {
  register_tile_mean_cpu(m);
  register_coarse_cpu(m);
  register_block_attention_cpu(m);
}

TORCH_LIBRARY_IMPL(fastwan, Autograd, m) {
  register_tile_mean_autograd(m);
  register_coarse_autograd(m);
  register_block_attention_autograd(m);
}

TORCH_LIBRARY_IMPL(fastwan, CompositeImplicitAutograd, m) {
  register_tiles(m);
  register_video_sparse_attn(m);
}

}  // namespace fastwan::ops
