// rms_rotate and its backward on CUDA. ops/rms_rotate.cpp asks for them.
#include <optional>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/rms_rotate/rms_rotate.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"

namespace fastwan::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

// turns [S, d/2, 2]: cosine and sine.
bool takes(const at::Tensor& x, const at::Tensor& weight, const MaybeTensor& turns) {
  return x.is_cuda() && x.dim() == 3 && has_cpu_kernel(x) && x.numel() > 0 &&
         weight.scalar_type() == x.scalar_type() && weight.dim() == 1 &&
         weight.size(0) == x.size(2) &&
         kernels::cuda::takes_rms_rotate(x.size(2), turns ? 2 * turns->size(1) : x.size(2)) &&
         (!turns || (turns->scalar_type() == at::kFloat && turns->size(0) == x.size(1) &&
                     x.size(2) % (2 * turns->size(1)) == 0));
}

at::Tensor forward(const at::Tensor& x_any,
                   const at::Tensor& weight_any,
                   const MaybeTensor& turns_any,
                   double eps,
                   bool rounds_norm) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = dense_rows(x_any), weight = dense_rows(weight_any);
  const at::Tensor turns = turns_any ? dense_rows(*turns_any) : at::Tensor();
  const at::Tensor out = at::empty_like(x);
  const int64_t C = x.size(2);
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::rms_rotate(
        kernels::RmsRotateArgs<Element, float>{
            .x = read<Element>(x),
            .weight = read<Element>(weight),
            .rotation = turns.defined() ? read<float>(turns) : nullptr,
            .out = write<Element>(out),
            .C = C,
            .d = turns.defined() ? 2 * turns.size(1) : C,
            .S = x.size(1),
            .eps = eps,
            .rounds_norm = rounds_norm},
        x.numel() / C, current_stream(x));
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_any,
                                            const at::Tensor& x_any,
                                            const at::Tensor& weight_any,
                                            const MaybeTensor& turns_any,
                                            double eps) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = dense_rows(x_any), weight = dense_rows(weight_any),
                   grad = dense_rows(grad_any);
  const at::Tensor turns = turns_any ? dense_rows(*turns_any) : at::Tensor();
  const at::Tensor grad_x = at::empty_like(x);
  const int64_t C = x.size(2), R = x.numel() / C;
  const at::Tensor parts =
      at::empty({kernels::cuda::rms_rotate_parts(R, C), C}, x.options().dtype(at::kFloat));
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::rms_rotate_backward(
        kernels::RmsRotateBackwardArgs<Element, float>{
            .grad_out = read<Element>(grad),
            .x = read<Element>(x),
            .weight = read<Element>(weight),
            .rotation = turns.defined() ? read<float>(turns) : nullptr,
            .grad_x = write<Element>(grad_x),
            .C = C,
            .d = turns.defined() ? 2 * turns.size(1) : C,
            .S = x.size(1),
            .eps = eps},
        write<float>(parts), R, current_stream(x));
  });
  return {grad_x, parts.sum(0).to(weight.scalar_type())};
}

}  // namespace

void define_rms_rotate_cuda(torch::Library& m) {
  m.def("_rms_rotate_takes(Tensor x, Tensor weight, Tensor? turns) -> bool");
  m.def(
      "_rms_rotate(Tensor x, Tensor weight, Tensor? turns, float eps, bool rounds_norm) -> Tensor");
  m.def(
      "_rms_rotate_backward(Tensor grad_out, Tensor x, Tensor weight, Tensor? turns, float eps) -> "
      "(Tensor, Tensor)");
}

void register_rms_rotate_cuda(torch::Library& m) {
  m.impl("_rms_rotate_takes", takes);
  m.impl("_rms_rotate", forward);
  m.impl("_rms_rotate_backward", backward);
}

}  // namespace fastwan::ops
