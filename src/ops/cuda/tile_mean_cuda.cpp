// tile_mean on CUDA. Lengths are not read back: one beyond T counts as T.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/tile_mean/tile_mean.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"
#include "ops/tile_mean.h"

namespace fastwan::ops {
namespace {

at::Tensor forward(const at::Tensor& x_any, const at::Tensor& len_any, int64_t T) {
  if (!has_gpu_kernel(x_any)) {
    return plain_tile_mean(x_any, len_any, T);
  }
  check_tile_mean(x_any, len_any, T);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = x_any.contiguous();      // [B, N*T, H, D]
  const at::Tensor len = len_any.contiguous();  // [N]
  const kernels::TileDims dims{
      .B = x.size(0), .N = len.size(0), .T = T, .H = x.size(2), .D = x.size(3)};
  const at::Tensor out = at::empty({dims.B, dims.N, dims.H, dims.D}, x.options());
  with_gpu_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::tile_mean(kernels::TileMeanArgs<Element>{.x = read<Element>(x),
                                                            .len = read<int32_t>(len),
                                                            .out = write<Element>(out),
                                                            .dims = dims},
                             current_stream(x));
  });
  return out;
}

}  // namespace

void register_tile_mean_cuda(torch::Library& m) {
  m.impl("tile_mean", forward);
}

}  // namespace fastwan::ops
