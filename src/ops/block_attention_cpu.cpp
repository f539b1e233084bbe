#include "ops/block_attention_cpu.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "kernels/block_attention/block_attention.h"
#include "kernels/block_attention/block_attention_backward.h"
#include "ops/checks.h"
#include "ops/element.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "block_attention";
// Packed keys and values held at once: some heads, so that many threads find work, yet no copy of
// all heads.
constexpr int64_t kPackedFloats = int64_t{16} << 20;
constexpr int64_t kKeyTilesPerTask = 4;
// The same for the backward, which also holds the sums of keys' gradients.
constexpr int64_t kBackwardFloats = int64_t{64} << 20;
// Pieces that the backward offers to threads at once; few heads are cut into segments. A constant:
// the number of threads must not reach the bits.
constexpr int64_t kBackwardPieces = 8;

at::Tensor dense_channels(const at::Tensor& x) {
  return x.size(3) <= 1 || x.stride(3) == 1 ? x : x.contiguous();
}

template <class Element>
kernels::Tokens<const Element> tokens(const at::Tensor& x) {
  return {
      .data = read<Element>(x), .batch = x.stride(0), .token = x.stride(1), .head = x.stride(2)};
}

template <class Element>
kernels::Tokens<Element> writable_tokens(const at::Tensor& x) {
  return {
      .data = write<Element>(x), .batch = x.stride(0), .token = x.stride(1), .head = x.stride(2)};
}

struct DenseLists {
  at::Tensor index, count, q_sizes, kv_sizes;

  explicit DenseLists(const BlockLists& any)
      : index(any.index.contiguous()),
        count(any.count.contiguous()),
        q_sizes(any.q_sizes.contiguous()),
        kv_sizes(any.kv_sizes.contiguous()) {}
  BlockLists lists() const { return {index, count, q_sizes, kv_sizes}; }
  kernels::BlockList pointers() const {
    return {.index = read<int32_t>(index),
            .count = read<int32_t>(count),
            .q_sizes = read<int32_t>(q_sizes),
            .kv_sizes = read<int32_t>(kv_sizes)};
  }
};

kernels::BlockAttentionDims dims_of(const AttentionOperands& x, const BlockLists& lists) {
  const int64_t Nq = lists.q_sizes.size(0), Nk = lists.kv_sizes.size(0);
  return {.B = x.q.size(0),
          .H = x.q.size(2),
          .Nq = Nq,
          .Nk = Nk,
          .Tq = x.q.size(1) / std::max<int64_t>(1, Nq),
          .Tk = x.k.size(1) / std::max<int64_t>(1, Nk),
          .D = x.q.size(3),
          .K = lists.index.size(3)};
}

// What a kernel would follow out of bounds.
void check_list_values(const BlockLists& lists, const kernels::BlockAttentionDims& d) {
  check_values(kOp, {"q_sizes", lists.q_sizes}, 0, d.Tq, "tokens of each query tile");
  check_values(kOp, {"kv_sizes", lists.kv_sizes}, 1, d.Tk, "tokens of each key tile");
  check_values(kOp, {"block_count", lists.count}, 0, d.K, "lengths of lists");
  const int32_t* count = lists.count.const_data_ptr<int32_t>();
  const int32_t* index = lists.index.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < d.B * d.H * d.Nq; ++i) {
    for (int32_t j = 0; j < count[i]; ++j) {
      const int32_t tile = index[i * d.K + j];
      TORCH_CHECK_VALUE(tile >= 0 && tile < d.Nk, kOp,
                        ": block_index holds key tiles: each from 0 to ", d.Nk - 1, ", got ", tile,
                        " at position ", i * d.K + j);
    }
  }
}

template <class Element>
void run(const kernels::BlockAttentionArgs<Element>& args) {
  const kernels::BlockAttentionDims& d = args.dims;
  const int64_t heads = d.B * d.H, floats = kernels::cpu::packed_floats(d);
  const int64_t heads_at_once =
      std::min(heads, std::max<int64_t>(1, kPackedFloats / std::max<int64_t>(1, floats)));
  const at::Tensor packed = at::empty({heads_at_once * floats}, at::kFloat);
  const kernels::cpu::Bf16Products products = kernels::cpu::best_bf16_products();
  for (int64_t first = 0; first < heads; first += heads_at_once) {
    const int64_t last = std::min(first + heads_at_once, heads);
    const kernels::cpu::PackedKeys keys{
        .data = write<float>(packed), .first_bh = first, .products = products};
    at::parallel_for(first * d.Nk, last * d.Nk, kKeyTilesPerTask, [&](int64_t begin, int64_t end) {
      kernels::cpu::pack_keys(args, keys, {.begin = begin, .end = end});
    });
    at::parallel_for(first * d.Nq, last * d.Nq, 1, [&](int64_t begin, int64_t end) {
      const at::Tensor scratch = at::empty({kernels::cpu::scratch_floats(d)}, at::kFloat);
      kernels::cpu::block_attention(args, keys, write<float>(scratch),
                                    {.begin = begin, .end = end});
    });
  }
}

template <class Element>
void run_backward(const kernels::BlockAttentionBackwardArgs<Element>& args) {
  const kernels::BlockAttentionDims& d = args.dims;
  const kernels::cpu::BackwardFloats floats = kernels::cpu::backward_floats(d);
  const int64_t heads = d.B * d.H;
  if (heads == 0) {
    return;
  }
  const int64_t of_head = std::max<int64_t>(1, floats.packed + floats.sums);
  const int64_t heads_at_once = std::clamp<int64_t>(kBackwardFloats / of_head, 1, heads);
  const int64_t segments = std::clamp<int64_t>(
      (kBackwardPieces + heads_at_once - 1) / heads_at_once, 1, std::max<int64_t>(1, d.Nq));
  const at::Tensor packed = at::empty({heads_at_once * floats.packed}, at::kFloat);
  const at::Tensor sums = at::empty({heads_at_once * segments * floats.sums}, at::kFloat);
  for (int64_t first = 0; first < heads; first += heads_at_once) {
    const int64_t last = std::min(first + heads_at_once, heads);
    const kernels::cpu::BackwardWork work{.packed = write<float>(packed),
                                          .sums = write<float>(sums),
                                          .first_bh = first,
                                          .segments = segments};
    const auto over_key_tiles = [&](auto step) {
      at::parallel_for(first * d.Nk, last * d.Nk, kKeyTilesPerTask,
                       [&](int64_t begin, int64_t end) { step({.begin = begin, .end = end}); });
    };
    over_key_tiles([&](kernels::Range tiles) { kernels::cpu::pack_keys(args, work, tiles); });
    at::parallel_for(first * segments, last * segments, 1, [&](int64_t begin, int64_t end) {
      const at::Tensor scratch = at::empty({floats.scratch}, at::kFloat);
      kernels::cpu::accumulate(args, work, write<float>(scratch), {.begin = begin, .end = end});
    });
    over_key_tiles(
        [&](kernels::Range tiles) { kernels::cpu::store_key_gradients(args, work, tiles); });
  }
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> cpu_block_attention(const AttentionOperands& x,
                                                       const BlockLists& lists_any,
                                                       double scale) {
  check_block_attention(x, lists_any);
  if (!has_cpu_kernel(x.q)) {
    return plain_block_attention(x, lists_any, scale);
  }
  const DenseLists lists(lists_any);
  const kernels::BlockAttentionDims dims = dims_of(x, lists_any);
  check_list_values(lists.lists(), dims);
  const at::Tensor q = dense_channels(x.q), k = dense_channels(x.k), v = dense_channels(x.v);
  at::Tensor out = at::empty(q.sizes(), q.options());  // [B, Nq*Tq, H, D]
  at::Tensor lse = at::empty({dims.B, dims.H, dims.Nq * dims.Tq}, q.options().dtype(at::kFloat));
  with_element(q, [&](auto element) {
    using Element = decltype(element);
    run(kernels::BlockAttentionArgs<Element>{.q = tokens<Element>(q),
                                             .k = tokens<Element>(k),
                                             .v = tokens<Element>(v),
                                             .out = writable_tokens<Element>(out),
                                             .lse = write<float>(lse),
                                             .list = lists.pointers(),
                                             .scale = scale,
                                             .dims = dims});
  });
  return {out, lse};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> cpu_block_attention_backward(
    const at::Tensor& grad_out_any,
    const at::Tensor& grad_lse_any,
    const AttentionOperands& x,
    const AttentionResult& result,
    const BlockLists& lists_any,
    double scale) {
  check_block_attention_backward(grad_out_any, grad_lse_any, x, result, lists_any);
  if (!has_cpu_kernel(x.q)) {
    return plain_block_attention_backward(grad_out_any, grad_lse_any, x, result, lists_any, scale);
  }
  const DenseLists lists(lists_any);
  const kernels::BlockAttentionDims dims = dims_of(x, lists_any);
  check_list_values(lists.lists(), dims);
  const at::Tensor q = dense_channels(x.q), k = dense_channels(x.k), v = dense_channels(x.v);
  const at::Tensor out = dense_channels(result.out), grad_out = dense_channels(grad_out_any);
  const at::Tensor lse = result.lse.contiguous();  // [B, H, Nq*Tq]
  const at::Tensor grad_lse = grad_lse_any.defined() ? grad_lse_any.contiguous() : grad_lse_any;
  at::Tensor dq = at::empty(q.sizes(), q.options());
  at::Tensor dk = at::empty(k.sizes(), k.options());
  at::Tensor dv = at::empty(v.sizes(), v.options());
  with_element(q, [&](auto element) {
    using Element = decltype(element);
    run_backward(kernels::BlockAttentionBackwardArgs<Element>{
        .q = tokens<Element>(q),
        .k = tokens<Element>(k),
        .v = tokens<Element>(v),
        .out = tokens<Element>(out),
        .grad_out = tokens<Element>(grad_out),
        .lse = read<float>(lse),
        .grad_lse = grad_lse.defined() ? read<float>(grad_lse) : nullptr,
        .grad_q = writable_tokens<Element>(dq),
        .grad_k = writable_tokens<Element>(dk),
        .grad_v = writable_tokens<Element>(dv),
        .list = lists.pointers(),
        .scale = scale,
        .dims = dims});
  });
  return {dq, dk, dv};
}

}  // namespace fastwan::ops
