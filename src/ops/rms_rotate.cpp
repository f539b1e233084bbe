#include "ops/rms_rotate.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/view_as_real.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/rms_rotate/rms_rotate.h"
#include "ops/checks.h"
#include "ops/element.h"
#include "ops/gpu_operator.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "rms_rotate";
constexpr int64_t kElementsPerTask = 16384;  // below that a second thread costs more than it saves

using MaybeTensor = std::optional<at::Tensor>;
using Takes = bool(const at::Tensor&, const at::Tensor&, const MaybeTensor&);
using Forward = at::Tensor(const at::Tensor&, const at::Tensor&, const MaybeTensor&, double, bool);
using Backward = std::tuple<at::Tensor, at::Tensor>(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const MaybeTensor&, double);

// [S, d/2, 2], or nothing.
MaybeTensor turns_of(const at::Tensor& rotation) {
  return rotation.defined() ? MaybeTensor(at::view_as_real(rotation.squeeze(1))) : std::nullopt;
}

struct GpuRmsRotate : torch::autograd::Function<GpuRmsRotate> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& x,
                            const at::Tensor& weight,
                            const MaybeTensor& turns,
                            double eps,
                            bool rounds_norm) {
    ctx->save_for_backward({x, weight, turns.value_or(at::Tensor())});
    ctx->saved_data["eps"] = eps;
    static const auto run = gpu_operator<Forward>("fastwan::_rms_rotate");
    return run->call(x, weight, turns, eps, rounds_norm);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const MaybeTensor turns = saved[2].defined() ? MaybeTensor(saved[2]) : std::nullopt;
    static const auto run = gpu_operator<Backward>("fastwan::_rms_rotate_backward");
    const auto [grad_x, grad_weight] =
        run->call(grads[0], saved[0], saved[1], turns, ctx->saved_data["eps"].toDouble());
    const at::Tensor none;
    return {grad_x, grad_weight, none, none, none};
  }
};

}  // namespace

bool has_gpu_rms_rotate(const RmsRotateInputs& in) {
  if (!in.x.is_cuda()) {
    return false;
  }
  const auto takes = gpu_operator<Takes>("fastwan::_rms_rotate_takes");
  return takes && takes->call(in.x, in.weight, turns_of(in.rotation));
}

at::Tensor rms_rotate(const RmsRotateInputs& in) {
  return GpuRmsRotate::apply(in.x, in.weight, turns_of(in.rotation), in.eps, in.rounds_norm);
}

bool has_rms_rotate(const at::Tensor& x) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat;
}

void rms_rotate_(at::Tensor& x,
                 const at::Tensor& weight_any,
                 const at::Tensor& rotation,
                 double eps) {
  check_rank(kOp, {"x", x}, 3, "B S H*d");
  check_shape(kOp, {"weight", weight_any}, {{"H*d", x.size(2)}});
  check_alike(kOp, {"x", x}, {{"weight", weight_any}});
  TORCH_CHECK_VALUE(x.is_contiguous(), kOp, ": x must be dense to be changed in place");
  const at::Tensor weight = weight_any.contiguous();
  const int64_t S = x.size(1), C = x.size(2);
  at::Tensor turns;  // [S, d/2, 2]
  if (rotation.defined()) {
    TORCH_CHECK_VALUE(rotation.scalar_type() == at::kComplexFloat, kOp,
                      ": rotation must be complex64, got ", rotation.dtype());
    const int64_t half = rotation.size(-1);
    check_shape(kOp, {"rotation", rotation}, {{"S", S}, {"1", 1}, {"d/2", half}});
    TORCH_CHECK_VALUE(half > 0 && C % (2 * half) == 0, kOp, ": ", C,
                      " channels are no whole number of heads of ", 2 * half);
    turns = at::view_as_real(rotation.squeeze(1).contiguous());
  }
  const kernels::RmsRotateArgs<float> args{
      .x = read<float>(x),
      .weight = read<float>(weight),
      .rotation = turns.defined() ? read<float>(turns) : nullptr,
      .out = write<float>(x),
      .C = C,
      .d = turns.defined() ? 2 * turns.size(1) : C,
      .S = S,
      .eps = eps};
  at::parallel_for(0, x.size(0) * S,
                   std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, C)),
                   [&](int64_t begin, int64_t end) {
                     kernels::cpu::rms_rotate(args, {.begin = begin, .end = end});
                   });
}

}  // namespace fastwan::ops
