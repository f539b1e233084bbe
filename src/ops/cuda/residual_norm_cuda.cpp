// residual_norm and its backward on CUDA. ops/residual_norm.cpp asks for them.
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/residual_norm/residual_norm.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"

namespace fastwan::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

// One vector a sample or one for all, in float32.
bool is_per_sample(const MaybeTensor& vector, const at::Tensor& x) {
  const int64_t C = x.size(2);
  return !vector || (vector->scalar_type() == at::kFloat && vector->device() == x.device() &&
                     vector->dim() >= 1 && vector->size(-1) == C &&
                     (vector->numel() == C || (vector->dim() == 3 && vector->size(0) == x.size(0) &&
                                               vector->size(1) == 1)));
}

bool takes(const at::Tensor& x,
           const MaybeTensor& y,
           const MaybeTensor& gate,
           const MaybeTensor& scale,
           const MaybeTensor& shift) {
  return x.is_cuda() && x.dim() == 3 && has_cpu_kernel(x) && x.numel() > 0 &&
         kernels::cuda::takes_residual_norm(x.size(2)) &&
         (!y || (y->scalar_type() == x.scalar_type() && y->sizes() == x.sizes())) &&
         is_per_sample(gate, x) && is_per_sample(scale, x) && is_per_sample(shift, x);
}

// Rows that loads of four elements can read; a copy stays in `kept` for the launch.
kernels::PerSample<float> per_sample(const MaybeTensor& vector, std::vector<at::Tensor>& kept) {
  if (!vector) {
    return {};
  }
  const int64_t C = vector->size(-1);
  at::Tensor rows =
      vector->dim() == 3 ? vector->squeeze(1) : vector->reshape({1, C});  // [B or 1, C]
  const bool is_aligned = rows.stride(1) == 1 && rows.stride(0) % 4 == 0 &&
                          reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0;
  rows = is_aligned ? rows : rows.clone(at::MemoryFormat::Contiguous);
  kept.push_back(rows);
  return {.data = read<float>(rows), .stride = rows.size(0) == 1 ? 0 : rows.stride(0)};
}

template <class Element>
const Element* read_if(const MaybeTensor& x) {
  return x ? read<Element>(*x) : nullptr;
}

MaybeTensor dense_if(const MaybeTensor& x) {
  return x ? MaybeTensor(dense_rows(*x)) : std::nullopt;
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x_any,
                                           const MaybeTensor& y_any,
                                           const MaybeTensor& gate,
                                           const MaybeTensor& scale,
                                           const MaybeTensor& shift,
                                           double eps,
                                           bool adds_one,
                                           bool rounds_norm,
                                           bool reads_rounded) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = dense_rows(x_any);  // [B, S, C]
  const MaybeTensor y = dense_if(y_any);
  const at::Tensor absent = at::empty({0}, x.options());
  const at::Tensor sum = y ? at::empty_like(x) : absent;
  const at::Tensor out = scale ? at::empty_like(x) : absent;
  std::vector<at::Tensor> kept;
  const kernels::ResidualNormRule<float> rule{.gate = per_sample(gate, kept),
                                              .scale = per_sample(scale, kept),
                                              .shift = per_sample(shift, kept),
                                              .B = x.size(0),
                                              .S = x.size(1),
                                              .C = x.size(2),
                                              .eps = eps,
                                              .adds_one = adds_one,
                                              .rounds_norm = rounds_norm,
                                              .reads_rounded = reads_rounded};
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::residual_norm(
        kernels::ResidualNormArgs<Element, float>{.x = read<Element>(x),
                                                  .y = read_if<Element>(y),
                                                  .sum = y ? write<Element>(sum) : nullptr,
                                                  .out = scale ? write<Element>(out) : nullptr,
                                                  .rule = rule},
        current_stream(x));
  });
  return {sum, out};
}

// Gradients of x, where there is a norm, of y, where there is a gate, and [B, 3, C] of gate, scale
// and shift.
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const MaybeTensor& grad_sum_any,
                                                        const MaybeTensor& grad_out_any,
                                                        const at::Tensor& x_any,
                                                        const MaybeTensor& y_any,
                                                        const MaybeTensor& gate,
                                                        const MaybeTensor& scale,
                                                        double eps,
                                                        bool adds_one,
                                                        bool reads_rounded) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = dense_rows(x_any);  // [B, S, C]
  const MaybeTensor y = dense_if(y_any), grad_sum = dense_if(grad_sum_any),
                    grad_out = dense_if(grad_out_any);
  const int64_t B = x.size(0), S = x.size(1), C = x.size(2);
  const at::Tensor absent = at::empty({0}, x.options());
  const at::Tensor grad_x = grad_out ? at::empty_like(x) : absent;
  const at::Tensor grad_y = gate ? at::empty_like(x) : absent;
  const at::Tensor parts = at::empty({B, kernels::cuda::residual_norm_parts(B, S, C), 3, C},
                                     x.options().dtype(at::kFloat));
  std::vector<at::Tensor> kept;
  const kernels::ResidualNormRule<float> rule{.gate = per_sample(gate, kept),
                                              .scale = per_sample(scale, kept),
                                              .shift = {},
                                              .B = B,
                                              .S = S,
                                              .C = C,
                                              .eps = eps,
                                              .adds_one = adds_one,
                                              .rounds_norm = false,
                                              .reads_rounded = reads_rounded};
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    kernels::cuda::residual_norm_backward(
        kernels::ResidualNormBackwardArgs<Element, float>{
            .grad_sum = read_if<Element>(grad_sum),
            .grad_out = read_if<Element>(grad_out),
            .x = read<Element>(x),
            .y = read_if<Element>(y),
            .grad_x = grad_out ? write<Element>(grad_x) : nullptr,
            .grad_y = gate ? write<Element>(grad_y) : nullptr,
            .rule = rule},
        write<float>(parts), current_stream(x));
  });
  return {grad_x, grad_y, parts.sum(1)};
}

}  // namespace

void define_residual_norm_cuda(torch::Library& m) {
  m.def(
      "_residual_norm_takes(Tensor x, Tensor? y, Tensor? gate, Tensor? scale, Tensor? shift) -> "
      "bool");
  m.def(
      "_residual_norm(Tensor x, Tensor? y, Tensor? gate, Tensor? scale, Tensor? shift, float eps, "
      "bool adds_one, bool rounds_norm, bool reads_rounded) -> (Tensor, Tensor)");
  m.def(
      "_residual_norm_backward(Tensor? grad_sum, Tensor? grad_out, Tensor x, Tensor? y, "
      "Tensor? gate, Tensor? scale, float eps, bool adds_one, bool reads_rounded) -> "
      "(Tensor, Tensor, Tensor)");
}

void register_residual_norm_cuda(torch::Library& m) {
  m.impl("_residual_norm_takes", takes);
  m.impl("_residual_norm", forward);
  m.impl("_residual_norm_backward", backward);
}

}  // namespace fastwan::ops
