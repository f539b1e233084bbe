// block_select on CUDA: a threshold for each row instead of a sort.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/block_select/block_select.h"
#include "ops/block_select.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"

namespace fastwan::ops {
namespace {

at::Tensor forward(const at::Tensor& scores_any, int64_t topk) {
  if (!has_gpu_kernel(scores_any)) {
    return plain_block_select(scores_any, topk);
  }
  check_block_select(scores_any, topk);
  const c10::cuda::CUDAGuard guard(scores_any.device());
  const at::Tensor scores = scores_any.contiguous();  // [B, H, Nq, Nk]
  const int64_t rows = scores.size(0) * scores.size(1) * scores.size(2);
  const at::Tensor index = at::empty({scores.size(0), scores.size(1), scores.size(2), topk},
                                     scores.options().dtype(at::kInt));
  with_gpu_element(scores, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::block_select(
        kernels::BlockSelectArgs<Element>{.scores = read<Element>(scores),
                                          .index = write<int32_t>(index),
                                          .dims = {.R = rows, .N = scores.size(3), .K = topk}},
        current_stream(scores));
  });
  return index;
}

}  // namespace

void register_block_select_cuda(torch::Library& m) {
  m.impl("block_select", forward);
}

}  // namespace fastwan::ops
