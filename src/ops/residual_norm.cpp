#include "ops/residual_norm.h"

#include <optional>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/layer_norm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/gpu_operator.h"
#include "ops/residual_norm_cpu.h"

namespace fastwan::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<at::Tensor>;

// ---- torch's operators

// Nothing records results for a gradient: they may be overwritten.
bool may_overwrite() {
  return !at::GradMode::is_enabled();
}

// x + y * gate in the type of the gate; y is used up.
at::Tensor gated_sum(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) {
  const at::ScalarType wide = gate.scalar_type();
  at::Tensor wide_y = y.to(wide);
  if (!may_overwrite()) {
    return at::addcmul(x.to(wide), wide_y, gate);
  }
  return at::addcmul_out(wide_y, x.to(wide), wide_y, gate);
}

// One rounding at the end, or one before the scale too.
at::Tensor normed(const at::Tensor& read, const ResidualNormInputs& in) {
  const at::ScalarType wide = in.shift.scalar_type(), type = in.x.scalar_type();
  const int64_t C = in.x.size(-1);
  const at::Tensor scale = in.adds_one ? 1 + in.scale : in.scale;
  if (!in.rounds_norm && in.shift.numel() == C) {  // one row of modulation: one pass over x
    return at::layer_norm(read.to(wide), {C}, scale.flatten(), in.shift.flatten(), in.eps).to(type);
  }
  at::Tensor norm = at::layer_norm(read.to(wide), {C}, {}, {}, in.eps);
  if (in.rounds_norm) {
    norm = norm.to(type).to(wide);
  }
  return at::addcmul(in.shift, norm, scale).to(type);
}

ResidualNormResults plain(const ResidualNormInputs& in) {
  ResidualNormResults results{.sum = in.x, .normed = {}};
  at::Tensor read = in.x;
  if (in.gate.defined()) {
    const at::Tensor unrounded = gated_sum(in.x, in.y, in.gate);
    results.sum = unrounded.to(in.x.scalar_type());
    read = in.reads_rounded ? results.sum : unrounded;
  } else if (in.y.defined()) {
    at::Tensor y = in.y;
    read = results.sum = may_overwrite() ? y.add_(in.x) : in.x + y;
  }
  if (in.scale.defined()) {
    results.normed = normed(read, in);
  }
  return results;
}

// ---- one kernel

MaybeTensor maybe(const at::Tensor& x) {
  return x.defined() ? MaybeTensor(x) : std::nullopt;
}

using Takes = bool(const at::Tensor&,
                   const MaybeTensor&,
                   const MaybeTensor&,
                   const MaybeTensor&,
                   const MaybeTensor&);
using Forward = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&,
                                                   const MaybeTensor&,
                                                   const MaybeTensor&,
                                                   const MaybeTensor&,
                                                   const MaybeTensor&,
                                                   double,
                                                   bool,
                                                   bool,
                                                   bool);
using Backward = std::tuple<at::Tensor, at::Tensor, at::Tensor>(const MaybeTensor&,
                                                                const MaybeTensor&,
                                                                const at::Tensor&,
                                                                const MaybeTensor&,
                                                                const MaybeTensor&,
                                                                const MaybeTensor&,
                                                                double,
                                                                bool,
                                                                bool);

bool is_taken(const ResidualNormInputs& in) {
  if (in.x.is_cpu()) {
    return cpu_residual_norm_takes(in);
  }
  if (!in.x.is_cuda()) {
    return false;
  }
  const auto takes = gpu_operator<Takes>("fastwan::_residual_norm_takes");
  return takes && takes->call(in.x, maybe(in.y), maybe(in.gate), maybe(in.scale), maybe(in.shift));
}

// The gradient of rows [B, C] as their vector came: [B, 1, C], or summed to [1, 1, C] or [C].
at::Tensor gradient_of(const at::Tensor& rows, const at::Tensor& vector) {
  return rows
      .sum_to_size(vector.numel() == rows.size(1) ? at::IntArrayRef({1, rows.size(1)})
                                                  : rows.sizes())
      .view_as(vector);
}

ResidualNormResults forward_kernel(const ResidualNormInputs& in) {
  if (in.x.is_cpu()) {
    return cpu_residual_norm(
        in, in.y.defined() ? at::empty_like(in.y, at::MemoryFormat::Contiguous) : at::Tensor());
  }
  static const auto run = gpu_operator<Forward>("fastwan::_residual_norm");
  const auto [sum, normed] =
      run->call(in.x, maybe(in.y), maybe(in.gate), maybe(in.scale), maybe(in.shift), in.eps,
                in.adds_one, in.rounds_norm, in.reads_rounded);
  return {.sum = sum, .normed = normed};
}

ResidualNormGradients backward_kernel(const ResidualNormInputs& in,
                                      const at::Tensor& of_sum,
                                      const at::Tensor& of_normed) {
  if (in.x.is_cpu()) {
    return cpu_residual_norm_backward(in, of_sum, of_normed);
  }
  static const auto run = gpu_operator<Backward>("fastwan::_residual_norm_backward");
  const auto [x, y, vectors] =
      run->call(maybe(of_sum), maybe(of_normed), in.x, maybe(in.y), maybe(in.gate), maybe(in.scale),
                in.eps, in.adds_one, in.reads_rounded);
  return {.x = x, .y = y, .vectors = vectors};
}

struct FusedResidualNorm : torch::autograd::Function<FusedResidualNorm> {
  // sum, where y is given, and normed, where scale is. The tensors of `in` come alone too: autograd
  // sees arguments, not members.
  static variable_list forward(AutogradContext* ctx,
                               const at::Tensor& /*x*/,
                               const MaybeTensor& y,
                               const MaybeTensor& /*gate*/,
                               const MaybeTensor& scale,
                               const MaybeTensor& /*shift*/,
                               const ResidualNormInputs& in) {
    ctx->save_for_backward({in.x, in.y, in.gate, in.scale, in.shift});
    ctx->saved_data["eps"] = in.eps;
    ctx->saved_data["adds_one"] = in.adds_one;
    ctx->saved_data["reads_rounded"] = in.reads_rounded;
    ctx->set_materialize_grads(false);
    const ResidualNormResults results = forward_kernel(in);
    variable_list wanted;
    if (y) {
      wanted.push_back(results.sum);
    }
    if (scale) {
      wanted.push_back(results.normed);
    }
    return wanted;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const ResidualNormInputs in{.x = saved[0],
                                .y = saved[1],
                                .gate = saved[2],
                                .scale = saved[3],
                                .shift = saved[4],
                                .eps = ctx->saved_data["eps"].toDouble(),
                                .adds_one = ctx->saved_data["adds_one"].toBool(),
                                .reads_rounded = ctx->saved_data["reads_rounded"].toBool()};
    const at::Tensor none;
    const at::Tensor grad_sum = in.y.defined() ? grads[0] : none;
    const at::Tensor grad_out = in.scale.defined() ? grads.back() : none;
    if (!grad_sum.defined() && !grad_out.defined()) {
      return variable_list(6);
    }
    ResidualNormGradients of = backward_kernel(in, grad_sum, grad_out);
    if (!grad_out.defined()) {  // no norm: x gets what the sum gets
      of.x = grad_sum;
    }
    if (!in.gate.defined()) {
      of.y = in.y.defined() ? of.x : none;
    }
    const auto of_vector = [&of](const at::Tensor& vector, int64_t k) {
      return vector.defined() ? gradient_of(of.vectors.select(1, k), vector) : at::Tensor();
    };
    return {of.x, of.y, of_vector(in.gate, 0), of_vector(in.scale, 1), of_vector(in.shift, 2),
            none};
  }
};

}  // namespace

ResidualNormResults residual_norm(const ResidualNormInputs& in) {
  if (!is_taken(in)) {
    return plain(in);
  }
  if (in.x.is_cpu() && may_overwrite()) {
    ResidualNormInputs dense = in;
    dense.y = in.y.defined() ? in.y.contiguous() : in.y;
    return cpu_residual_norm(dense, dense.y);
  }
  const variable_list results = FusedResidualNorm::apply(in.x, maybe(in.y), maybe(in.gate),
                                                         maybe(in.scale), maybe(in.shift), in);
  return {.sum = in.y.defined() ? results.front() : in.x,
          .normed = in.scale.defined() ? results.back() : at::Tensor()};
}

}  // namespace fastwan::ops
