#include "ops/norm_silu.h"

#include <algorithm>
#include <tuple>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/norm_silu/norm_silu.h"
#include "ops/checks.h"
#include "ops/element.h"
#include "ops/gpu_operator.h"
#include "ops/over_rows.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "norm_silu";

void into(const at::Tensor& out, const at::Tensor& x, const at::Tensor& gamma_any) {
  check_shape(kOp, {"gamma", gamma_any}, {{"C", x.size(-1)}});
  const at::Tensor gamma = gamma_any.contiguous();
  const int64_t C = std::max<int64_t>(1, x.size(-1));
  const kernels::NormSiluArgs<float> args{
      .x = read<float>(x), .gamma = read<float>(gamma), .out = write<float>(out), .C = C};
  over_rows(x.numel() / C, C, [&](kernels::Range rows) { kernels::cpu::norm_silu(args, rows); });
}

struct GpuNormSilu : torch::autograd::Function<GpuNormSilu> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& x,
                            const at::Tensor& gamma) {
    ctx->save_for_backward({x, gamma});
    static const auto run =
        gpu_operator<at::Tensor(const at::Tensor&, const at::Tensor&)>("fastwan::_norm_silu");
    return run->call(x, gamma);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    static const auto run = gpu_operator<std::tuple<at::Tensor, at::Tensor>(
        const at::Tensor&, const at::Tensor&, const at::Tensor&)>("fastwan::_norm_silu_backward");
    const auto [grad_x, grad_gamma] = run->call(grads[0], saved[0], saved[1]);
    return {grad_x, grad_gamma};
  }
};

bool has_gpu_norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  const auto takes =
      gpu_operator<bool(const at::Tensor&, const at::Tensor&)>("fastwan::_norm_silu_takes");
  return takes && takes->call(x, gamma);
}

}  // namespace

bool has_norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  if (x.is_cuda()) {
    return has_gpu_norm_silu(x, gamma);
  }
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat &&
         gamma.scalar_type() == at::kFloat;
}

at::Tensor norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  if (x.is_cuda()) {
    check_shape(kOp, {"gamma", gamma}, {{"C", x.size(-1)}});
    return GpuNormSilu::apply(x, gamma);
  }
  const at::Tensor dense = x.contiguous();
  at::Tensor out = at::empty_like(dense);
  into(out, dense, gamma);
  return out;
}

void norm_silu_(at::Tensor& x, const at::Tensor& gamma) {
  TORCH_CHECK_VALUE(x.is_contiguous(), kOp, ": x must be dense to be changed in place");
  into(x, x, gamma);
}

}  // namespace fastwan::ops
