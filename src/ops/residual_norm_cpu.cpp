#include "ops/residual_norm_cpu.h"

#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/residual_norm/residual_norm.h"
#include "ops/element.h"
#include "ops/over_rows.h"

namespace fastwan::ops {
namespace {

// One vector a sample or one for all.
bool is_per_sample(const at::Tensor& vector, const at::Tensor& x) {
  if (!vector.defined()) {
    return true;
  }
  const int64_t C = x.size(2);
  const bool fits = vector.numel() == C ||
                    (vector.dim() == 3 && vector.size(0) == x.size(0) && vector.size(1) == 1);
  return vector.is_cpu() && vector.scalar_type() == at::kFloat && vector.dim() >= 1 &&
         vector.size(-1) == C && fits;
}

at::Tensor dense(const at::Tensor& x) {
  return x.defined() ? x.contiguous() : x;
}

const float* read_if(const at::Tensor& x) {
  return x.defined() ? read<float>(x) : nullptr;
}

float* write_if(const at::Tensor& x) {
  return x.defined() ? write<float>(x) : nullptr;
}

// One row a sample, or one for all; a view where its channels are dense.
at::Tensor rows_of(const at::Tensor& vector) {  // [B or 1, C]
  if (!vector.defined()) {
    return vector;
  }
  const int64_t C = vector.size(-1);
  const at::Tensor rows = vector.numel() == C ? vector.reshape({1, C}) : vector.squeeze(1);
  return rows.stride(1) == 1 ? rows : rows.contiguous();
}

kernels::PerSample<float> per_sample(const at::Tensor& rows) {
  if (!rows.defined()) {
    return {};
  }
  return {.data = read<float>(rows), .stride = rows.size(0) == 1 ? 0 : rows.stride(0)};
}

// What kernels read, dense.
struct Operands {
  at::Tensor x, y;                // [B, S, C]
  at::Tensor gate, scale, shift;  // [B or 1, C]
  kernels::ResidualNormRule<float> rule;

  explicit Operands(const ResidualNormInputs& in)
      : x(in.x.contiguous()),
        y(dense(in.y)),
        gate(rows_of(in.gate)),
        scale(rows_of(in.scale)),
        shift(rows_of(in.shift)),
        rule{.gate = per_sample(gate),
             .scale = per_sample(scale),
             .shift = per_sample(shift),
             .B = x.size(0),
             .S = x.size(1),
             .C = x.size(2),
             .eps = in.eps,
             .adds_one = in.adds_one} {}
};

}  // namespace

bool cpu_residual_norm_takes(const ResidualNormInputs& in) {
  const at::Tensor& x = in.x;
  const bool adds =
      !in.y.defined() || (in.y.scalar_type() == x.scalar_type() && in.y.sizes() == x.sizes());
  return x.is_cpu() && x.dim() == 3 && x.scalar_type() == at::kFloat && x.numel() > 0 && adds &&
         is_per_sample(in.gate, x) && is_per_sample(in.scale, x) && is_per_sample(in.shift, x);
}

ResidualNormResults cpu_residual_norm(const ResidualNormInputs& in, const at::Tensor& sum) {
  const Operands operands(in);
  ResidualNormResults results{.sum = sum.defined() ? sum : in.x, .normed = {}};
  if (in.scale.defined()) {
    results.normed = at::empty_like(operands.x);
  }
  const kernels::ResidualNormRule<float>& rule = operands.rule;
  const kernels::ResidualNormArgs<float, float> args{.x = read<float>(operands.x),
                                                     .y = read_if(operands.y),
                                                     .sum = write_if(sum),
                                                     .out = write_if(results.normed),
                                                     .rule = rule};
  over_rows(rule.B * rule.S, rule.C,
            [&](kernels::Range rows) { kernels::cpu::residual_norm(args, rows); });
  return results;
}

ResidualNormGradients cpu_residual_norm_backward(const ResidualNormInputs& in,
                                                 const at::Tensor& of_sum,
                                                 const at::Tensor& of_normed) {
  const Operands operands(in);
  const at::Tensor grad_sum = dense(of_sum), grad_out = dense(of_normed);  // [B, S, C]
  ResidualNormGradients grads;
  if (grad_out.defined()) {
    grads.x = at::empty_like(operands.x);
  }
  if (in.gate.defined()) {
    grads.y = at::empty_like(operands.x);
  }
  const kernels::ResidualNormBackwardArgs<float, float> args{.grad_sum = read_if(grad_sum),
                                                             .grad_out = read_if(grad_out),
                                                             .x = read<float>(operands.x),
                                                             .y = read_if(operands.y),
                                                             .grad_x = write_if(grads.x),
                                                             .grad_y = write_if(grads.y),
                                                             .rule = operands.rule};
  const int64_t B = operands.rule.B, C = operands.rule.C;
  const int64_t parts = kernels::cpu::residual_norm_parts(operands.rule.S);
  const at::Tensor sums = at::empty({B, parts, 3, C}, operands.x.options());
  at::parallel_for(0, B * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(C));
    kernels::cpu::residual_norm_backward(args, write<float>(sums), row.data(),
                                         {.begin = begin, .end = end});
  });
  grads.vectors = sums.sum(1);
  return grads;
}

}  // namespace fastwan::ops
