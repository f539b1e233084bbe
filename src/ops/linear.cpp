#include "ops/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/element.h"

namespace fastwan::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kRows = 512;  // of one partial sum

struct LinearWithBias : torch::autograd::Function<LinearWithBias> {
  static at::Tensor forward(AutogradContext* ctx,
                            const at::Tensor& x,
                            const at::Tensor& weight,
                            const at::Tensor& bias) {
    ctx->save_for_backward({x, weight});
    return at::linear(x, weight, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor grad = grads[0].reshape({-1, weight.size(0)});  // [N, out]
    at::Tensor grad_x, grad_weight, grad_bias;
    if (ctx->needs_input_grad(0)) {
      grad_x = at::mm(grad, weight).view(x.sizes());
    }
    if (ctx->needs_input_grad(1)) {
      grad_weight = at::mm(grad.t(), x.reshape({-1, weight.size(1)}));  // [out, in]
    }
    if (ctx->needs_input_grad(2)) {
      grad_bias = sum_of_rows(grad);
    }
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (x.is_cuda() && bias.defined() && bias.requires_grad() && at::GradMode::is_enabled()) {
    return LinearWithBias::apply(x, weight, bias);
  }
  return at::linear(x, weight, bias);
}

at::Tensor sum_of_rows(const at::Tensor& x) {
  const at::ScalarType wide = sum_type(x);
  const int64_t N = x.size(0), C = x.size(1), whole = N / kRows * kRows;
  at::Tensor sum = x.slice(0, whole).sum(0, /*keepdim=*/false, wide);  // [C]
  if (whole > 0) {
    const at::Tensor parts =
        x.slice(0, 0, whole).view({-1, kRows, C}).sum(1, /*keepdim=*/false, wide);  // [N/512, C]
    sum += parts.sum(0);
  }
  return sum.to(x.scalar_type());
}

}  // namespace fastwan::ops
