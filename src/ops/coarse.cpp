#include "ops/coarse.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/ordered_matmul/ordered_matmul.h"
#include "ops/checks.h"
#include "ops/element.h"
#include "ops/registry.h"

namespace fastwan::ops {
namespace {

constexpr const char* kMatmulOp = "_ordered_matmul";

void check_matmul(const at::Tensor& a, const at::Tensor& b) {
  check_floating(kMatmulOp, {"a", a});
  check_rank(kMatmulOp, {"a", a}, 4, "B H M K");
  check_rank(kMatmulOp, {"b", b}, 4, "B H K N");
  check_shape(
      kMatmulOp, {"b", b},
      {{"B", a.sym_size(0)}, {"H", a.sym_size(1)}, {"K", a.sym_size(3)}, {"N", b.sym_size(3)}});
  check_alike(kMatmulOp, {"a", a}, {{"b", b}});
}

at::Tensor plain_matmul(const at::Tensor& a, const at::Tensor& b) {
  check_matmul(a, b);
  return at::matmul(a, b).contiguous();
}

// Views [B*H, M, K] of x, whose heads may lie apart by any stride.
kernels::Matrices matrices(const at::Tensor& x) {
  return {.data = read<float>(x), .matrix = x.stride(0), .row = x.stride(1), .column = x.stride(2)};
}

at::Tensor cpu_matmul(const at::Tensor& a_any, const at::Tensor& b_any) {
  check_matmul(a_any, b_any);
  if (!has_cpu_kernel(a_any)) {
    return plain_matmul(a_any, b_any);
  }
  const at::Tensor a = a_any.to(at::kFloat).flatten(0, 1);  // [B*H, M, K], exact
  const at::Tensor b = b_any.to(at::kFloat).flatten(0, 1);  // [B*H, K, N]
  const kernels::MatmulDims dims{.G = a.size(0), .M = a.size(1), .N = b.size(2), .K = a.size(2)};
  const at::Tensor out =
      at::empty({a_any.size(0), a_any.size(1), dims.M, dims.N}, a.options());  // [B, H, M, N]
  const kernels::OrderedMatmulArgs args{
      .a = matrices(a), .b = matrices(b), .out = write<float>(out), .dims = dims};
  const int64_t pieces = dims.G * kernels::cpu::ordered_matmul_panels(dims);
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({kernels::cpu::ordered_matmul_scratch(dims)}, at::kFloat);
    kernels::cpu::ordered_matmul(args, write<float>(scratch), {.begin = begin, .end = end});
  });
  return out.to(a_any.scalar_type());
}

struct OrderedMatmul : torch::autograd::Function<OrderedMatmul> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& a,
                            const at::Tensor& b) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({a, b});
    return ordered_matmul(a, b);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {ordered_matmul(grads[0], saved[1].transpose(2, 3)),
            ordered_matmul(saved[0].transpose(2, 3), grads[0])};
  }
};

at::Tensor autograd_matmul(const at::Tensor& a, const at::Tensor& b) {
  return OrderedMatmul::apply(a, b);
}

at::Tensor plain_softmax(const at::Tensor& x) {
  check_floating("_row_softmax", {"x", x});
  check_rank("_row_softmax", {"x", x}, 4, "B H M N");
  return at::softmax(x, -1);
}

// d x = y (d y - <d y, y>) for each row. On the CPU of single operations, whose bits are the same
// whoever computes an element; torch's own backward gave other bits with one thread than with two.
at::Tensor softmax_backward(const at::Tensor& grad, const at::Tensor& y) {
  if (!y.is_cpu()) {
    return at::_softmax_backward_data(grad, y, -1, y.scalar_type());
  }
  const at::Tensor wide = y.to(sum_type(y)), wide_grad = grad.to(sum_type(y));
  const at::Tensor mean = (wide_grad * wide).sum(-1, /*keepdim=*/true);
  return (wide * (wide_grad - mean)).to(y.scalar_type());
}

struct RowSoftmax : torch::autograd::Function<RowSoftmax> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor y = row_softmax(x);
    ctx->save_for_backward({y});
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    return {softmax_backward(grads[0], ctx->get_saved_variables()[0])};
  }
};

at::Tensor autograd_softmax(const at::Tensor& x) {
  return RowSoftmax::apply(x);
}

}  // namespace

at::Tensor ordered_matmul(const at::Tensor& a, const at::Tensor& b) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::_ordered_matmul", "")
                             .typed<decltype(ordered_matmul)>();
  return op.call(a, b);
}

at::Tensor row_softmax(const at::Tensor& x) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::_row_softmax", "")
                             .typed<decltype(row_softmax)>();
  return op.call(x);
}

void register_coarse_plain(torch::Library& m) {
  m.impl("_ordered_matmul", plain_matmul);
  m.impl("_row_softmax", plain_softmax);
}
void register_coarse_cpu(torch::Library& m) {
  m.impl("_ordered_matmul", cpu_matmul);
}
void register_coarse_autograd(torch::Library& m) {
  m.impl("_ordered_matmul", autograd_matmul);
  m.impl("_row_softmax", autograd_softmax);
}

}  // namespace fastwan::ops
