#include "ops/block_attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/block_attention_cpu.h"
#include "ops/block_attention_plain.h"
#include "ops/element.h"
#include "ops/registry.h"

namespace fastwan::ops {
namespace {

using Out = std::tuple<at::Tensor, at::Tensor>;
using Grads = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// A device's implementation under the operator's signature.
template <auto kAttend>
Out forward_of(const at::Tensor& q,
               const at::Tensor& k,
               const at::Tensor& v,
               const at::Tensor& block_index,
               const at::Tensor& block_count,
               const at::Tensor& q_sizes,
               const at::Tensor& kv_sizes,
               std::optional<double> scale) {
  return kAttend({.q = q, .k = k, .v = v}, {block_index, block_count, q_sizes, kv_sizes},
                 scale_or_default(scale, q));
}

template <auto kDifferentiate>
Grads backward_of(const at::Tensor& grad_out,
                  const std::optional<at::Tensor>& grad_lse,
                  const at::Tensor& q,
                  const at::Tensor& k,
                  const at::Tensor& v,
                  const at::Tensor& out,
                  const at::Tensor& lse,
                  const at::Tensor& block_index,
                  const at::Tensor& block_count,
                  const at::Tensor& q_sizes,
                  const at::Tensor& kv_sizes,
                  std::optional<double> scale) {
  return kDifferentiate(grad_out, grad_lse.value_or(at::Tensor()), {.q = q, .k = k, .v = v},
                        {.out = out, .lse = lse}, {block_index, block_count, q_sizes, kv_sizes},
                        scale_or_default(scale, q));
}

Out meta(const at::Tensor& q,
         const at::Tensor& k,
         const at::Tensor& v,
         const at::Tensor& block_index,
         const at::Tensor& block_count,
         const at::Tensor& q_sizes,
         const at::Tensor& kv_sizes,
         std::optional<double>) {
  check_block_attention({.q = q, .k = k, .v = v}, {block_index, block_count, q_sizes, kv_sizes});
  return {at::empty_symint(q.sym_sizes(), q.options()),
          at::empty_symint({q.sym_size(0), q.sym_size(2), q.sym_size(1)},
                           q.options().dtype(sum_type(q)))};
}

Grads meta_backward(const at::Tensor& grad_out,
                    const std::optional<at::Tensor>& grad_lse,
                    const at::Tensor& q,
                    const at::Tensor& k,
                    const at::Tensor& v,
                    const at::Tensor& out,
                    const at::Tensor& lse,
                    const at::Tensor& block_index,
                    const at::Tensor& block_count,
                    const at::Tensor& q_sizes,
                    const at::Tensor& kv_sizes,
                    std::optional<double>) {
  check_block_attention_backward(grad_out, grad_lse.value_or(at::Tensor()),
                                 {.q = q, .k = k, .v = v}, {.out = out, .lse = lse},
                                 {block_index, block_count, q_sizes, kv_sizes});
  const auto like = [](const at::Tensor& x) {
    return at::empty_symint(x.sym_sizes(), x.options());
  };
  return {like(q), like(k), like(v)};
}

Grads backward_op(const at::Tensor& grad_out,
                  const std::optional<at::Tensor>& grad_lse,
                  const at::Tensor& q,
                  const at::Tensor& k,
                  const at::Tensor& v,
                  const at::Tensor& out,
                  const at::Tensor& lse,
                  const at::Tensor& block_index,
                  const at::Tensor& block_count,
                  const at::Tensor& q_sizes,
                  const at::Tensor& kv_sizes,
                  std::optional<double> scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::_block_attention_backward", "")
                             .typed<decltype(backward_op)>();
  return op.call(grad_out, grad_lse, q, k, v, out, lse, block_index, block_count, q_sizes, kv_sizes,
                 scale);
}

struct BlockAttention : torch::autograd::Function<BlockAttention> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& q,
                                                const at::Tensor& k,
                                                const at::Tensor& v,
                                                const at::Tensor& block_index,
                                                const at::Tensor& block_count,
                                                const at::Tensor& q_sizes,
                                                const at::Tensor& kv_sizes,
                                                std::optional<double> scale) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    ctx->saved_data["scale"] = scale;
    const auto [out, lse] =
        block_attention(q, k, v, block_index, block_count, q_sizes, kv_sizes, scale);
    ctx->save_for_backward({q, k, v, out, lse, block_index, block_count, q_sizes, kv_sizes});
    return {out, lse};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& out = saved[3];
    const at::Tensor grad_out =
        grads[0].defined() ? grads[0] : at::zeros_symint(out.sym_sizes(), out.options());
    const auto [dq, dk, dv] =
        backward_op(grad_out, grads[1], saved[0], saved[1], saved[2], out, saved[4], saved[5],
                    saved[6], saved[7], saved[8], ctx->saved_data["scale"].toOptional<double>());
    const at::Tensor none;
    return {dq, dk, dv, none, none, none, none, none};
  }
};

Out autograd(const at::Tensor& q,
             const at::Tensor& k,
             const at::Tensor& v,
             const at::Tensor& block_index,
             const at::Tensor& block_count,
             const at::Tensor& q_sizes,
             const at::Tensor& kv_sizes,
             std::optional<double> scale) {
  const torch::autograd::variable_list results =
      BlockAttention::apply(q, k, v, block_index, block_count, q_sizes, kv_sizes, scale);
  return {results[0], results[1]};
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> block_attention(const at::Tensor& q,
                                                   const at::Tensor& k,
                                                   const at::Tensor& v,
                                                   const at::Tensor& block_index,
                                                   const at::Tensor& block_count,
                                                   const at::Tensor& q_sizes,
                                                   const at::Tensor& kv_sizes,
                                                   std::optional<double> scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::block_attention", "")
                             .typed<decltype(block_attention)>();
  return op.call(q, k, v, block_index, block_count, q_sizes, kv_sizes, scale);
}

void register_block_attention_plain(torch::Library& m) {
  m.impl("block_attention", forward_of<plain_block_attention>);
  m.impl("_block_attention_backward", backward_of<plain_block_attention_backward>);
}
void register_block_attention_cpu(torch::Library& m) {
  m.impl("block_attention", forward_of<cpu_block_attention>);
  m.impl("_block_attention_backward", backward_of<cpu_block_attention_backward>);
}
void register_block_attention_meta(torch::Library& m) {
  m.impl("block_attention", meta);
  m.impl("_block_attention_backward", meta_backward);
}
void register_block_attention_autograd(torch::Library& m) {
  m.impl("block_attention", autograd);
}

}  // namespace fastwan::ops
