#include "ops/rms_rotate.h"

#include <optional>
#include <tuple>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/view_as_real.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/rms_rotate/rms_rotate.h"
#include "ops/checks.h"
#include "ops/element.h"
#include "ops/gpu_operator.h"
#include "ops/over_rows.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "rms_rotate";

using MaybeTensor = std::optional<at::Tensor>;
using Takes = bool(const at::Tensor&, const at::Tensor&, const MaybeTensor&);
using Forward = at::Tensor(const at::Tensor&, const at::Tensor&, const MaybeTensor&, double, bool);
using Backward = std::tuple<at::Tensor, at::Tensor>(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const MaybeTensor&, double);

// [S, d/2, 2], or nothing.
MaybeTensor turns_of(const at::Tensor& rotation) {
  return rotation.defined() ? MaybeTensor(at::view_as_real(rotation.squeeze(1))) : std::nullopt;
}

// What kernels read: dense tensors, turns [S, d/2, 2] or undefined.
struct Operands {
  at::Tensor x, weight, turns;

  Operands(const at::Tensor& x_any, const at::Tensor& weight_any, const MaybeTensor& turns_any)
      : x(x_any.contiguous()),
        weight(weight_any.contiguous()),
        turns(turns_any ? turns_any->contiguous() : at::Tensor()) {}
  int64_t rows() const { return x.size(0) * x.size(1); }
  int64_t head_dim() const { return turns.defined() ? 2 * turns.size(1) : x.size(2); }
  const float* turn_data() const { return turns.defined() ? read<float>(turns) : nullptr; }
};

void cpu_into(const at::Tensor& out, const Operands& in, double eps) {
  const int64_t C = in.x.size(2);
  const kernels::RmsRotateArgs<float> args{.x = read<float>(in.x),
                                           .weight = read<float>(in.weight),
                                           .rotation = in.turn_data(),
                                           .out = write<float>(out),
                                           .C = C,
                                           .d = in.head_dim(),
                                           .S = in.x.size(1),
                                           .eps = eps};
  over_rows(in.rows(), C, [&](kernels::Range rows) { kernels::cpu::rms_rotate(args, rows); });
}

at::Tensor cpu_forward(const at::Tensor& x,
                       const at::Tensor& weight,
                       const MaybeTensor& turns,
                       double eps) {
  const Operands in(x, weight, turns);
  at::Tensor out = at::empty_like(in.x);
  cpu_into(out, in, eps);
  return out;
}

std::tuple<at::Tensor, at::Tensor> cpu_backward(const at::Tensor& grad_out_any,
                                                const at::Tensor& x_any,
                                                const at::Tensor& weight_any,
                                                const MaybeTensor& turns_any,
                                                double eps) {
  const Operands in(x_any, weight_any, turns_any);
  const at::Tensor grad_out = grad_out_any.contiguous();  // [B, S, H*d]
  at::Tensor grad_x = at::empty_like(in.x);
  const int64_t C = in.x.size(2), parts = kernels::cpu::rms_rotate_parts(in.rows());
  const at::Tensor sums = at::empty({parts, C}, in.x.options());
  const kernels::RmsRotateBackwardArgs<float> args{.grad_out = read<float>(grad_out),
                                                   .x = read<float>(in.x),
                                                   .weight = read<float>(in.weight),
                                                   .rotation = in.turn_data(),
                                                   .grad_x = write<float>(grad_x),
                                                   .C = C,
                                                   .d = in.head_dim(),
                                                   .S = in.x.size(1),
                                                   .eps = eps};
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    kernels::cpu::rms_rotate_backward(args, write<float>(sums), in.rows(),
                                      {.begin = begin, .end = end});
  });
  return {grad_x, sums.sum(0)};
}

struct FusedRmsRotate : torch::autograd::Function<FusedRmsRotate> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& x,
                            const at::Tensor& weight,
                            const MaybeTensor& turns,
                            double eps,
                            bool rounds_norm) {
    ctx->save_for_backward({x, weight, turns.value_or(at::Tensor())});
    ctx->saved_data["eps"] = eps;
    if (x.is_cpu()) {
      return cpu_forward(x, weight, turns, eps);
    }
    static const auto run = gpu_operator<Forward>("fastwan::_rms_rotate");
    return run->call(x, weight, turns, eps, rounds_norm);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const MaybeTensor turns = saved[2].defined() ? MaybeTensor(saved[2]) : std::nullopt;
    const double eps = ctx->saved_data["eps"].toDouble();
    at::Tensor grad_x, grad_weight;
    if (saved[0].is_cpu()) {
      std::tie(grad_x, grad_weight) = cpu_backward(grads[0], saved[0], saved[1], turns, eps);
    } else {
      static const auto run = gpu_operator<Backward>("fastwan::_rms_rotate_backward");
      std::tie(grad_x, grad_weight) = run->call(grads[0], saved[0], saved[1], turns, eps);
    }
    const at::Tensor none;
    return {grad_x, grad_weight, none, none, none};
  }
};

// On the CPU: float32, rotated in complex64.
bool cpu_takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rotation) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
         (!rotation.defined() || rotation.scalar_type() == at::kComplexFloat);
}

void check(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rotation) {
  check_rank(kOp, {"x", x}, 3, "B S H*d");
  check_shape(kOp, {"weight", weight}, {{"H*d", x.size(2)}});
  check_alike(kOp, {"x", x}, {{"weight", weight}});
  if (!rotation.defined()) {
    return;
  }
  TORCH_CHECK_VALUE(rotation.scalar_type() == at::kComplexFloat, kOp,
                    ": rotation must be complex64, got ", rotation.dtype());
  const int64_t S = x.size(1), C = x.size(2), half = rotation.size(-1);
  check_shape(kOp, {"rotation", rotation}, {{"S", S}, {"1", 1}, {"d/2", half}});
  TORCH_CHECK_VALUE(half > 0 && C % (2 * half) == 0, kOp, ": ", C,
                    " channels are no whole number of heads of ", 2 * half);
}

}  // namespace

bool has_rms_rotate(const RmsRotateInputs& in) {
  if (!in.x.is_cuda()) {
    return cpu_takes(in.x, in.weight, in.rotation);
  }
  const auto takes = gpu_operator<Takes>("fastwan::_rms_rotate_takes");
  return takes && takes->call(in.x, in.weight, turns_of(in.rotation));
}

at::Tensor rms_rotate(const RmsRotateInputs& in) {
  if (in.x.is_cpu()) {
    check(in.x, in.weight, in.rotation);
  }
  if (!in.x.is_cpu() || at::GradMode::is_enabled()) {
    return FusedRmsRotate::apply(in.x, in.weight, turns_of(in.rotation), in.eps, in.rounds_norm);
  }
  const Operands operands(in.x, in.weight, turns_of(in.rotation));
  cpu_into(operands.x, operands, in.eps);  // in place
  return operands.x;
}

}  // namespace fastwan::ops
