#include "ops/gelu.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/gelu/gelu.h"
#include "ops/element.h"
#include "ops/over_rows.h"

namespace fastwan::ops {
namespace {

void into(const at::Tensor& out, const at::Tensor& x) {
  const kernels::GeluArgs<float> args{.x = read<float>(x), .out = write<float>(out)};
  over_rows(x.numel(), 1, [&](kernels::Range elements) { kernels::cpu::gelu(args, elements); });
}

struct CpuGelu : torch::autograd::Function<CpuGelu> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_any) {
    const at::Tensor x = x_any.contiguous();
    ctx->save_for_backward({x});
    at::Tensor out = at::empty_like(x);
    into(out, x);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const at::Tensor x = ctx->get_saved_variables()[0], grad_out = grads[0].contiguous();
    at::Tensor grad_x = at::empty_like(x);
    const kernels::GeluBackwardArgs<float> args{
        .grad_out = read<float>(grad_out), .x = read<float>(x), .grad_x = write<float>(grad_x)};
    over_rows(x.numel(), 1,
              [&](kernels::Range elements) { kernels::cpu::gelu_backward(args, elements); });
    return {grad_x};
  }
};

}  // namespace

at::Tensor tanh_gelu(const at::Tensor& x) {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat) {
    at::Tensor out = x;
    return at::GradMode::is_enabled() ? at::gelu(x, "tanh") : at::gelu_(out, "tanh");
  }
  if (at::GradMode::is_enabled()) {
    return CpuGelu::apply(x);
  }
  const at::Tensor out = x.contiguous();
  into(out, out);  // in place
  return out;
}

}  // namespace fastwan::ops
