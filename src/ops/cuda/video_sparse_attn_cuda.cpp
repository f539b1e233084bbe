// The whole of video_sparse_attn_raster without gradients, in four kernels that read q, k, v and
// the gate in raster order: means, scores with selection and coarse output, lists, fine stage with
// the gate.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/block_attention/block_attention_sm90.h"
#include "kernels/vsa_coarse/vsa_coarse.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"
#include "ops/cuda/select.h"
#include "ops/topk.h"

namespace fastwan::ops {
namespace {

namespace sm90 = kernels::cuda::sm90;
using kernels::Bf16;

int64_t tiles_along(int64_t tokens) {
  return (tokens + kTileSide - 1) / kTileSide;
}

bool takes(const at::Tensor& q, at::IntArrayRef grid) {
  return q.is_cuda() && q.numel() > 0 &&
         takes_fused_raster(capability_of(q), q.scalar_type(),
                            {.T = grid[0], .H = grid[1], .W = grid[2], .head_size = q.size(3)});
}

// Heads must lie D apart.
at::Tensor for_boxes(const at::Tensor& x) {
  const at::Tensor y = for_copy_engine(x);
  return y.stride(2) == y.size(3) ? y : y.contiguous();
}

at::Tensor run(const at::Tensor& q_any,
               const at::Tensor& k_any,
               const at::Tensor& v_any,
               const std::optional<at::Tensor>& gate_any,
               at::IntArrayRef grid,
               int64_t topk) {
  const c10::cuda::CUDAGuard guard(q_any.device());
  const at::Tensor q = for_boxes(q_any);  // [B, S, H, D]
  const at::Tensor k = for_boxes(k_any);
  const at::Tensor v = for_boxes(v_any);
  const bool is_gated = gate_any && gate_any->defined();
  const at::Tensor gate = is_gated ? for_boxes(*gate_any) : q;
  const int64_t B = q.size(0), H = q.size(2), D = q.size(3);
  const int64_t N = tiles_along(grid[0]) * tiles_along(grid[1]) * tiles_along(grid[2]);
  const kernels::TokenGrid place{grid[0], grid[1], grid[2]};
  const at::Tensor means = at::empty({4, B, N, H, D}, q.options());  // of q, k, v; coarse output
  const auto mean = [&](int64_t i) { return write<Bf16>(means.select(0, i)); };
  const at::Tensor index = at::empty({B, H, N, topk}, q.options().dtype(at::kInt));
  const at::Tensor count = at::empty({B, H, N}, index.options());
  void* const stream = current_stream(q);
  kernels::cuda::tile_pool({.x = {read_tokens(q), read_tokens(k), read_tokens(v)},
                            .mean = {mean(0), mean(1), mean(2)},
                            .B = B,
                            .H = H,
                            .D = D,
                            .grid = place},
                           stream);
  kernels::cuda::coarse_select({.q_mean = mean(0),
                                .k_mean = mean(1),
                                .v_mean = mean(2),
                                .block_index = write<int32_t>(index),
                                .block_count = write<int32_t>(count),
                                .coarse = is_gated ? mean(3) : nullptr,
                                .B = B,
                                .H = H,
                                .N = N,
                                .D = D,
                                .K = topk},
                               stream);
  const at::Tensor out = at::empty(q.sizes(), q.options());
  const Bf16* no_gate = nullptr;
  const kernels::FineArgs args{
      .q = read_tokens(q),
      .k = read_tokens(k),
      .v = read_tokens(v),
      .gate = is_gated ? read_tokens(gate) : tokens_of(q, no_gate),
      .coarse = is_gated ? mean(3) : nullptr,
      .out = write_tokens(out),
      .lse = nullptr,
      .list = {read<int32_t>(index), read<int32_t>(count), nullptr, nullptr},
      .grid = place,
      .dims = {.B = B, .H = H, .Nq = N, .Nk = N, .D = D, .K = topk},
      .scale = 1.0F / std::sqrt(static_cast<float>(D))};
  const at::Tensor workspace = workspace_for(q, sm90::workspace_bytes(args));
  sm90::block_attention(args, workspace.mutable_data_ptr(), stream);
  return out;
}

}  // namespace

void define_video_sparse_attn_cuda(torch::Library& m) {
  m.def("_video_sparse_attn_fused_takes(Tensor q, int[3] grid) -> bool");
  m.def(
      "_video_sparse_attn_fused(Tensor q, Tensor k, Tensor v, Tensor? gate, int[3] grid, int topk) "
      "-> Tensor");
}

void register_video_sparse_attn_cuda(torch::Library& m) {
  m.impl("_video_sparse_attn_fused_takes", takes);
  m.impl("_video_sparse_attn_fused", run);
}

}  // namespace fastwan::ops
