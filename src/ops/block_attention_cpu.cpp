#include "ops/block_attention_cpu.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "kernels/block_attention/block_attention.h"
#include "ops/checks.h"
#include "ops/element.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "block_attention";
// Packed keys and values held at once: some heads, so that many threads find work, yet no copy of
// all heads.
constexpr int64_t kPackedFloats = int64_t{16} << 20;
constexpr int64_t kKeyTilesPerTask = 4;

at::Tensor dense_channels(const at::Tensor& x) {
  return x.size(3) <= 1 || x.stride(3) == 1 ? x : x.contiguous();
}

template <class Element>
kernels::Tokens<const Element> tokens(const at::Tensor& x) {
  return {
      .data = read<Element>(x), .batch = x.stride(0), .token = x.stride(1), .head = x.stride(2)};
}

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
  for (int64_t first = 0; first < heads; first += heads_at_once) {
    const int64_t last = std::min(first + heads_at_once, heads);
    const kernels::cpu::PackedKeys keys{.data = write<float>(packed), .first_bh = first};
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

}  // namespace

std::tuple<at::Tensor, at::Tensor> cpu_block_attention(const AttentionOperands& x,
                                                       const BlockLists& lists_any,
                                                       double scale) {
  check_block_attention(x, lists_any);
  if (!has_cpu_kernel(x.q)) {
    return plain_block_attention(x, lists_any, scale);
  }
  const at::Tensor index = lists_any.index.contiguous(), count = lists_any.count.contiguous();
  const at::Tensor q_sizes = lists_any.q_sizes.contiguous();
  const at::Tensor kv_sizes = lists_any.kv_sizes.contiguous();
  const kernels::BlockAttentionDims dims = dims_of(x, lists_any);
  check_list_values({index, count, q_sizes, kv_sizes}, dims);
  const at::Tensor q = dense_channels(x.q), k = dense_channels(x.k), v = dense_channels(x.v);
  at::Tensor out = at::empty(q.sizes(), q.options());  // [B, Nq*Tq, H, D]
  at::Tensor lse = at::empty({dims.B, dims.H, dims.Nq * dims.Tq}, q.options().dtype(at::kFloat));
  with_element(q, [&](auto element) {
    using Element = decltype(element);
    run(kernels::BlockAttentionArgs<Element>{.q = tokens<Element>(q),
                                             .k = tokens<Element>(k),
                                             .v = tokens<Element>(v),
                                             .out = {.data = write<Element>(out),
                                                     .batch = out.stride(0),
                                                     .token = out.stride(1),
                                                     .head = out.stride(2)},
                                             .lse = write<float>(lse),
                                             .list = {.index = read<int32_t>(index),
                                                      .count = read<int32_t>(count),
                                                      .q_sizes = read<int32_t>(q_sizes),
                                                      .kv_sizes = read<int32_t>(kv_sizes)},
                                             .scale = scale,
                                             .dims = dims});
  });
  return {out, lse};
}

}  // namespace fastwan::ops
