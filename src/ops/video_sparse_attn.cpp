#include "ops/video_sparse_attn.h"

#include <cmath>
#include <optional>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/full_like.h>

#include "ops/block_attention.h"
#include "ops/block_select.h"
#include "ops/checks.h"
#include "ops/coarse.h"
#include "ops/fused_raster.h"
#include "ops/registry.h"
#include "ops/tile_mean.h"
#include "ops/tiles.h"

namespace fastwan::ops {
namespace {

constexpr const char* kRasterOp = "video_sparse_attn_raster";
constexpr const char* kTiledOp = "video_sparse_attn";

struct TiledInputs {
  at::Tensor q;        // [B, Nq*T, H, D]
  at::Tensor k;        // [B, Nk*T, H, D]
  at::Tensor v;        // [B, Nk*T, H, D]
  at::Tensor q_sizes;  // [Nq] int32
  at::Tensor k_sizes;  // [Nk] int32
};

struct Branches {
  at::Tensor coarse;  // [B, Nq, H, D], undefined unless wanted
  at::Tensor fine;    // [B, Nq*T, H, D]
};

struct RasterOptions {
  int64_t topk;
  std::optional<double> scale;
  bool may_fuse;  // tiles of 4x4x4
};

struct Options {
  int64_t topk;
  int64_t tile_slots;
  bool wants_coarse;
  std::optional<double> scale;
};

Branches attend(const TiledInputs& in, const Options& options) {
  const auto mean = [&](const at::Tensor& x, const at::Tensor& sizes) {
    return tile_mean(x, sizes, options.tile_slots).transpose(1, 2);  // [B, H, N, D]
  };
  const auto D = static_cast<double>(in.q.sym_size(3).guard_int(__FILE__, __LINE__));
  const double divisor = options.scale ? 1.0 / *options.scale : std::sqrt(D);
  // Divided after the product is rounded: the published order.
  const at::Tensor scores =
      ordered_matmul(mean(in.q, in.q_sizes), mean(in.k, in.k_sizes).transpose(2, 3)) /
      divisor;                                                           // [B, H, Nq, Nk]
  const at::Tensor index = block_select(scores.detach(), options.topk);  // [B, H, Nq, K]
  const at::Tensor count = at::full_like(index.select(3, 0), options.topk);
  Branches result;
  result.fine = std::get<0>(
      block_attention(in.q, in.k, in.v, index, count, in.q_sizes, in.k_sizes, options.scale));
  if (options.wants_coarse) {
    result.coarse = ordered_matmul(row_softmax(scores), mean(in.v, in.k_sizes)).transpose(1, 2);
  }
  return result;
}

void check_topk(const char* op, int64_t topk, const c10::SymInt& tiles) {
  TORCH_CHECK_VALUE(topk >= 1 && topk <= tiles, op,
                    ": topk must lie between 1 and the number of key tiles, ", tiles, ", got ",
                    topk);
}

bool are_cubes_of_4(at::IntArrayRef tile) {
  return tile == at::IntArrayRef{kTileSide, kTileSide, kTileSide};
}

at::Tensor raster(const AttentionInputs& in,
                  const AttentionPlan& plan,
                  const RasterOptions& options) {
  const auto& [topk, scale, may_fuse] = options;
  check_rank(kRasterOp, {"q", in.q}, 4, "B S H D");
  const std::vector<Dim> dims{{"B", in.q.sym_size(0)},
                              {"S", plan.T * plan.H * plan.W},
                              {"H", in.q.sym_size(2)},
                              {"D", in.q.sym_size(3)}};
  check_floating(kRasterOp, {"q", in.q});
  for (const Named& x : {Named{"q", in.q}, Named{"k", in.k}, Named{"v", in.v}}) {
    check_shape(kRasterOp, x, dims);
    check_alike(kRasterOp, {"q", in.q}, {x});
  }
  if (in.gate.defined()) {
    check_shape(kRasterOp, {"gate", in.gate}, dims);
    check_alike(kRasterOp, {"q", in.q}, {{"gate", in.gate}});
  }
  check_topk(kRasterOp, topk, plan.tile_sizes.sym_size(0));
  if (may_fuse && !scale) {
    if (const auto fused = fused_raster(in, {.T = plan.T, .H = plan.H, .W = plan.W}, topk)) {
      return *fused;  // [B, S, H, D]
    }
  }
  const Branches tiled = attend({.q = to_tiles(in.q, plan),
                                 .k = to_tiles(in.k, plan),
                                 .v = to_tiles(in.v, plan),
                                 .q_sizes = plan.tile_sizes,
                                 .k_sizes = plan.tile_sizes},
                                {.topk = topk,
                                 .tile_slots = plan.tile_slots,
                                 .wants_coarse = in.gate.defined(),
                                 .scale = scale});
  const at::Tensor fine = to_raster(tiled.fine, plan);  // [B, S, H, D]
  if (!in.gate.defined()) {
    return fine;
  }
  const at::Tensor tile_of_token = at::floor_divide(plan.raster_slot, plan.tile_slots);  // [S]
  return tiled.coarse.index_select(1, tile_of_token) * in.gate + fine;  // [B, S, H, D]
}

Grid three(const char* name, at::IntArrayRef sizes) {
  TORCH_CHECK_VALUE(sizes.size() == 3, name, " must hold three sizes, got ", sizes);
  return {sizes[0], sizes[1], sizes[2]};
}

at::Tensor raster_op(const at::Tensor& q,
                     const at::Tensor& k,
                     const at::Tensor& v,
                     const std::optional<at::Tensor>& gate,
                     at::IntArrayRef grid,
                     int64_t topk,
                     at::IntArrayRef tile,
                     std::optional<double> scale) {
  const AttentionPlan plan = plan_tiles(three("grid", grid), three("tile", tile), q.device());
  return raster({.q = q, .k = k, .v = v, .gate = gate.value_or(at::Tensor())}, plan,
                {.topk = topk, .scale = scale, .may_fuse = are_cubes_of_4(tile)});
}

// FastVideo's operator: [B, H, S, D] in tile order; an absent weight counts as 1.
at::Tensor tiled_op(const at::Tensor& q,
                    const at::Tensor& k,
                    const at::Tensor& v,
                    const at::Tensor& variable_block_sizes,
                    const at::Tensor& q_variable_block_sizes,
                    int64_t topk,
                    at::IntArrayRef block_size,
                    const std::optional<at::Tensor>& compress_attn_weight) {
  check_rank(kTiledOp, {"q", q}, 4, "B H S D");
  check_rank(kTiledOp, {"k", k}, 4, "B H S D");
  check_rank(kTiledOp, {"variable_block_sizes", variable_block_sizes}, 1, "Nk");
  check_rank(kTiledOp, {"q_variable_block_sizes", q_variable_block_sizes}, 1, "Nq");
  const int64_t tile_slots = volume(three("block_size", block_size));
  check_topk(kTiledOp, topk, variable_block_sizes.sym_size(0));
  const Branches tiled =
      attend({.q = q.transpose(1, 2),
              .k = k.transpose(1, 2),
              .v = v.transpose(1, 2),
              .q_sizes = q_variable_block_sizes.to(at::kInt),
              .k_sizes = variable_block_sizes.to(at::kInt)},
             {.topk = topk, .tile_slots = tile_slots, .wants_coarse = true, .scale = std::nullopt});
  const at::Tensor per_token = tiled.coarse.transpose(1, 2).unsqueeze(3);  // [B, H, Nq, 1, D]
  const at::Tensor fine = tiled.fine.transpose(1, 2);                      // [B, H, Nq*T, D]
  const at::Tensor coarse =
      per_token
          .expand_symint({q.sym_size(0), q.sym_size(1), q_variable_block_sizes.sym_size(0),
                          tile_slots, q.sym_size(3)})
          .flatten(2, 3);  // [B, H, Nq*T, D]
  if (!compress_attn_weight) {
    return coarse + fine;
  }
  check_alike(kTiledOp, {"q", q}, {{"compress_attn_weight", *compress_attn_weight}});
  return coarse * *compress_attn_weight + fine;
}

}  // namespace

at::Tensor video_sparse_attn_raster(const AttentionInputs& in,
                                    const AttentionPlan& plan,
                                    int64_t topk) {
  return raster(in, plan,
                {.topk = topk, .scale = std::nullopt, .may_fuse = plan.tile_slots == kTileSlots});
}

void register_video_sparse_attn(torch::Library& m) {
  m.impl("video_sparse_attn_raster", raster_op);
  m.impl("video_sparse_attn", tiled_op);
}

}  // namespace fastwan::ops
