// block_attention on CUDA: the Hopper or the portable kernels where they apply, else the plain
// version.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/block_attention/block_attention_mma.h"
#include "kernels/block_attention/block_attention_sm90.h"
#include "ops/block_attention_plain.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"
#include "ops/cuda/select.h"

namespace fastwan::ops {
namespace {

namespace sm90 = kernels::cuda::sm90;
namespace mma = kernels::cuda::mma;
using Out = std::tuple<at::Tensor, at::Tensor>;
using Grads = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

GpuKernel kernel_for_call(const AttentionOperands& x, const BlockLists& lists, double scale) {
  return select_block_attention(capability_of(x.q), x.q.scalar_type(),
                                {.B = x.q.size(0),
                                 .H = x.q.size(2),
                                 .D = x.q.size(3),
                                 .query_tiles = lists.q_sizes.size(0),
                                 .key_tiles = lists.kv_sizes.size(0),
                                 .query_slots = x.q.size(1),
                                 .key_slots = x.k.size(1),
                                 .scale = scale});
}

mma::Format format_of(const at::Tensor& x) {
  return x.scalar_type() == at::kHalf ? mma::Format::kFp16 : mma::Format::kBf16;
}

// Dense copies that the argument structs point into.
struct DenseLists {
  at::Tensor index, count, q_sizes, kv_sizes;

  explicit DenseLists(const BlockLists& lists)
      : index(lists.index.contiguous()),
        count(lists.count.contiguous()),
        q_sizes(lists.q_sizes.contiguous()),
        kv_sizes(lists.kv_sizes.contiguous()) {}
  kernels::BlockList list() const {
    return {read<int32_t>(index), read<int32_t>(count), read<int32_t>(q_sizes),
            read<int32_t>(kv_sizes)};
  }
};

kernels::FineDims dims_of(const at::Tensor& q, const DenseLists& lists) {
  return {.B = q.size(0),
          .H = q.size(2),
          .Nq = lists.q_sizes.size(0),
          .Nk = lists.kv_sizes.size(0),
          .D = q.size(3),
          .K = lists.index.size(3)};
}

Out forward(const at::Tensor& q_any,
            const at::Tensor& k_any,
            const at::Tensor& v_any,
            const at::Tensor& block_index,
            const at::Tensor& block_count,
            const at::Tensor& q_sizes,
            const at::Tensor& kv_sizes,
            std::optional<double> scale_or) {
  const AttentionOperands x{.q = q_any, .k = k_any, .v = v_any};
  const BlockLists given{block_index, block_count, q_sizes, kv_sizes};
  check_block_attention(x, given);
  const double scale = scale_or_default(scale_or, q_any);
  const GpuKernel kernel = kernel_for_call(x, given, scale);
  if (kernel == GpuKernel::kPlain) {
    return plain_block_attention(x, given, scale);
  }
  const c10::cuda::CUDAGuard guard(q_any.device());
  const at::Tensor q = for_copy_engine(q_any);  // [B, Nq*64, H, D]
  const at::Tensor k = for_copy_engine(k_any);  // [B, Nk*64, H, D]
  const at::Tensor v = for_copy_engine(v_any);  // [B, Nk*64, H, D]
  const DenseLists lists(given);
  const at::Tensor out = at::empty(q.sizes(), q.options());
  const at::Tensor lse =
      at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat));
  const kernels::FineArgs args{.q = read_tokens(q),
                               .k = read_tokens(k),
                               .v = read_tokens(v),
                               .gate = {},
                               .coarse = nullptr,
                               .out = write_tokens(out),
                               .lse = write<float>(lse),
                               .list = lists.list(),
                               .grid = {0, 0, 0},
                               .dims = dims_of(q, lists),
                               .scale = static_cast<float>(scale)};
  if (kernel == GpuKernel::kPortable) {
    mma::block_attention(args, format_of(q), current_stream(q));
    return {out, lse};
  }
  const at::Tensor workspace = workspace_for(q, sm90::workspace_bytes(args));
  sm90::block_attention(args, workspace.mutable_data_ptr(), current_stream(q));
  return {out, lse};
}

Grads backward(const at::Tensor& grad_out,
               const std::optional<at::Tensor>& grad_lse,
               const at::Tensor& q_any,
               const at::Tensor& k_any,
               const at::Tensor& v_any,
               const at::Tensor& out_any,
               const at::Tensor& lse,
               const at::Tensor& block_index,
               const at::Tensor& block_count,
               const at::Tensor& q_sizes,
               const at::Tensor& kv_sizes,
               std::optional<double> scale_or) {
  const AttentionOperands x{.q = q_any, .k = k_any, .v = v_any};
  const BlockLists given{block_index, block_count, q_sizes, kv_sizes};
  check_block_attention_backward(grad_out, grad_lse.value_or(at::Tensor()), x,
                                 {.out = out_any, .lse = lse}, given);
  const double scale = scale_or_default(scale_or, q_any);
  const GpuKernel kernel = kernel_for_call(x, given, scale);
  if (kernel == GpuKernel::kPlain) {
    return plain_block_attention_backward(grad_out, grad_lse.value_or(at::Tensor()), x,
                                          {.out = out_any, .lse = lse}, given, scale);
  }
  const c10::cuda::CUDAGuard guard(q_any.device());
  const at::Tensor q = for_copy_engine(q_any);
  const at::Tensor k = for_copy_engine(k_any);
  const at::Tensor v = for_copy_engine(v_any);
  const at::Tensor out = for_copy_engine(out_any);
  const at::Tensor dout = for_copy_engine(grad_out);
  const at::Tensor dense_lse = lse.contiguous();
  const at::Tensor dlse = grad_lse && grad_lse->defined() ? grad_lse->contiguous() : at::Tensor();
  const DenseLists lists(given);
  const at::Tensor dq = at::empty(q.sizes(), q.options());
  const at::Tensor dk = at::empty(k.sizes(), k.options());
  const at::Tensor dv = at::empty(v.sizes(), v.options());
  const kernels::FineBackwardArgs args{.q = read_tokens(q),
                                       .k = read_tokens(k),
                                       .v = read_tokens(v),
                                       .out = read_tokens(out),
                                       .dout = read_tokens(dout),
                                       .lse = read<float>(dense_lse),
                                       .dlse = dlse.defined() ? read<float>(dlse) : nullptr,
                                       .dq = write_tokens(dq),
                                       .dk = write_tokens(dk),
                                       .dv = write_tokens(dv),
                                       .list = lists.list(),
                                       .grid = {0, 0, 0},
                                       .dims = dims_of(q, lists),
                                       .scale = static_cast<float>(scale)};
  const bool is_portable = kernel == GpuKernel::kPortable;
  const at::Tensor workspace =
      workspace_for(q, is_portable ? mma::workspace_bytes(args) : sm90::workspace_bytes(args));
  if (is_portable) {
    mma::block_attention_backward(args, format_of(q), workspace.mutable_data_ptr(),
                                  current_stream(q));
  } else {
    sm90::block_attention_backward(args, workspace.mutable_data_ptr(), current_stream(q));
  }
  return {dq, dk, dv};
}

}  // namespace

void register_block_attention_cuda(torch::Library& m) {
  m.impl("block_attention", forward);
  m.impl("_block_attention_backward", backward);
}

}  // namespace fastwan::ops
