// norm_silu and its backward on CUDA. ops/norm_silu.cpp asks for them.
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/norm_silu/norm_silu.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"

namespace fastwan::ops {
namespace {

bool takes(const at::Tensor& x, const at::Tensor& gamma) {
  return x.is_cuda() && has_cpu_kernel(x) && gamma.scalar_type() == x.scalar_type() &&
         kernels::cuda::takes_norm_silu(x.size(-1));
}

at::Tensor forward(const at::Tensor& x_any, const at::Tensor& gamma_any) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = dense_rows(x_any), gamma = dense_rows(gamma_any);  // [..., C], [C]
  const at::Tensor out = at::empty_like(x);
  const int64_t C = x.size(-1);
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::norm_silu(kernels::NormSiluArgs<Element>{.x = read<Element>(x),
                                                            .gamma = read<Element>(gamma),
                                                            .out = write<Element>(out),
                                                            .C = C},
                             x.numel() / C, current_stream(x));
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_any,
                                            const at::Tensor& x_any,
                                            const at::Tensor& gamma_any) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = dense_rows(x_any), gamma = dense_rows(gamma_any),
                   grad = dense_rows(grad_any);
  const at::Tensor grad_x = at::empty_like(x);
  const int64_t C = x.size(-1), R = x.numel() / C;
  const at::Tensor parts =
      at::empty({kernels::cuda::norm_silu_parts(R, C), C}, x.options().dtype(at::kFloat));
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::norm_silu_backward(
        kernels::NormSiluBackwardArgs<Element>{.grad_out = read<Element>(grad),
                                               .x = read<Element>(x),
                                               .gamma = read<Element>(gamma),
                                               .grad_x = write<Element>(grad_x),
                                               .C = C},
        write<float>(parts), R, current_stream(x));
  });
  return {grad_x, parts.sum(0).to(gamma.scalar_type())};
}

}  // namespace

void define_norm_silu_cuda(torch::Library& m) {
  m.def("_norm_silu_takes(Tensor x, Tensor gamma) -> bool");
  m.def("_norm_silu(Tensor x, Tensor gamma) -> Tensor");
  m.def("_norm_silu_backward(Tensor grad_out, Tensor x, Tensor gamma) -> (Tensor, Tensor)");
}

void register_norm_silu_cuda(torch::Library& m) {
  m.impl("_norm_silu_takes", takes);
  m.impl("_norm_silu", forward);
  m.impl("_norm_silu_backward", backward);
}

}  // namespace fastwan::ops
