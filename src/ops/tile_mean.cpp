#include "kernels/tile_mean/tile_mean.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/checks.h"
#include "ops/element.h"
#include "ops/registry.h"
#include "ops/tile_mean.h"

namespace fastwan::ops {
namespace {

constexpr int64_t kTilesPerTask = 8;

at::Tensor is_padding(const at::Tensor& len, int64_t T) {
  return at::arange(T, len.options())
      .ge(len.unsqueeze(1))
      .view_symint({1, len.sym_size(0), T, 1, 1});  // [1, N, T, 1, 1]
}

at::Tensor plain_backward(const at::Tensor& grad_out, const at::Tensor& len, int64_t T) {
  const at::Tensor share = grad_out.to(sum_type(grad_out)) / len.view({1, -1, 1, 1});
  return share.unsqueeze(2)
      .masked_fill(is_padding(len, T), 0)  // [B, N, T, H, D]
      .flatten(1, 2)
      .to(grad_out.scalar_type());  // [B, N*T, H, D]
}

at::Tensor cpu(const at::Tensor& x_any, const at::Tensor& len_any, int64_t T) {
  if (!has_cpu_kernel(x_any)) {
    return plain_tile_mean(x_any, len_any, T);
  }
  check_tile_mean(x_any, len_any, T);
  const at::Tensor x = x_any.contiguous();      // [B, N*T, H, D]
  const at::Tensor len = len_any.contiguous();  // [N]
  check_values("tile_mean", {"len", len}, 1, T, "tokens of each tile");
  const kernels::TileDims dims{
      .B = x.size(0), .N = len.size(0), .T = T, .H = x.size(2), .D = x.size(3)};
  at::Tensor out = at::empty({dims.B, dims.N, dims.H, dims.D}, x.options());
  with_element(x, [&](auto element) {
    using Element = decltype(element);
    const kernels::TileMeanArgs<Element> args{.x = read<Element>(x),
                                              .len = len.const_data_ptr<int32_t>(),
                                              .out = write<Element>(out),
                                              .dims = dims};
    at::parallel_for(0, dims.B * dims.N, kTilesPerTask, [&](int64_t begin, int64_t end) {
      kernels::cpu::tile_mean(args, {.begin = begin, .end = end});
    });
  });
  return out;
}

at::Tensor backward_op(const at::Tensor& grad_out, const at::Tensor& len, int64_t T) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::_tile_mean_backward", "")
                             .typed<decltype(backward_op)>();
  return op.call(grad_out, len, T);
}

struct TileMean : torch::autograd::Function<TileMean> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& x,
                            const at::Tensor& len,
                            int64_t T) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({len});
    ctx->saved_data["T"] = T;
    return tile_mean(x, len, T);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor len = ctx->get_saved_variables()[0];
    const int64_t T = ctx->saved_data["T"].toInt();
    return {backward_op(grads[0], len, T), at::Tensor(), at::Tensor()};
  }
};

at::Tensor autograd(const at::Tensor& x, const at::Tensor& len, int64_t T) {
  return TileMean::apply(x, len, T);
}

}  // namespace

void check_tile_mean(const at::Tensor& x, const at::Tensor& len, int64_t T) {
  check_floating("tile_mean", {"x", x});
  check_rank("tile_mean", {"x", x}, 4, "B N*T H D");
  check_rank("tile_mean", {"len", len}, 1, "N");
  check_int32("tile_mean", {"len", len});
  check_device("tile_mean", {"x", x}, {{"len", len}});
  TORCH_CHECK_VALUE(T >= 1, "tile_mean: T must be at least 1, got ", T);
  TORCH_CHECK_VALUE(x.sym_size(1) == len.sym_size(0) * T, "tile_mean: x must hold T=", T,
                    " slots for each of the N=", len.sym_size(0), " tiles of len, got ",
                    x.sym_size(1), " slots");
}

at::Tensor plain_tile_mean(const at::Tensor& x, const at::Tensor& len, int64_t T) {
  check_tile_mean(x, len, T);
  const at::Tensor tiles = x.unflatten_symint(1, {len.sym_size(0), T});  // [B, N, T, H, D]
  const at::Tensor sum =
      tiles.to(sum_type(x)).masked_fill(is_padding(len, T), 0).sum(2);  // [B, N, H, D]
  return (sum / len.view({1, -1, 1, 1})).to(x.scalar_type());           // [B, N, H, D]
}

at::Tensor tile_mean(const at::Tensor& x, const at::Tensor& len, int64_t T) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::tile_mean", "")
                             .typed<decltype(tile_mean)>();
  return op.call(x, len, T);
}

void register_tile_mean_plain(torch::Library& m) {
  m.impl("tile_mean", plain_tile_mean);
  m.impl("_tile_mean_backward", plain_backward);
}
void register_tile_mean_cpu(torch::Library& m) {
  m.impl("tile_mean", cpu);
}
void register_tile_mean_autograd(torch::Library& m) {
  m.impl("tile_mean", autograd);
}

}  // namespace fastwan::ops
