// The operators' CUDA implementations. Schemas stand in ops/registry.cpp; those defined below exist
// only where this library is loaded; the functions of ops/ that use them ask for them.
#include "ops/cuda/registry_cuda.h"

namespace fastwan::ops {

TORCH_LIBRARY_FRAGMENT(fastwan, m) {
  define_video_sparse_attn_cuda(m);
  define_norm_silu_cuda(m);
  define_residual_norm_cuda(m);
  define_rms_rotate_cuda(m);
  define_sample_noise_cuda(m);
}

TORCH_LIBRARY_IMPL(fastwan, CUDA, m) {
  register_tile_mean_cuda(m);
  register_block_select_cuda(m);
  register_block_attention_cuda(m);
  register_video_sparse_attn_cuda(m);
  register_norm_silu_cuda(m);
  register_residual_norm_cuda(m);
  register_rms_rotate_cuda(m);
  register_sample_noise_cuda(m);
}

}  // namespace fastwan::ops
