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
  TORCH_CHECK_VALUE(!scale || std::isfinite(*scale), kRasterOp, ": scale must be finite, got ",
                    *scale);
  const AttentionPlan plan = plan_tiles(three("grid", grid), three("tile", tile), q.device());
  return raster({.q = q, .k = k, .v = v, .gate = gate.value_or(at::Tensor())}, plan,
                {.topk = topk, .scale = scale, .may_fuse = are_cubes_of_4(tile)});
}

struct TileSizes {
  const at::Tensor& of_queries;  // [Nq]
  const at::Tensor& of_keys;     // [Nk]
  int64_t slots;
};

void check_tiled(const AttentionInputs& in, const TileSizes& sizes) {
  check_rank(kTiledOp, {"q", in.q}, 4, "B H S D");
  check_floating(kTiledOp, {"q", in.q});
  for (const Named& x : {Named{"variable_block_sizes", sizes.of_keys},
                         Named{"q_variable_block_sizes", sizes.of_queries}}) {
    check_rank(kTiledOp, x, 1, "N");
    TORCH_CHECK_VALUE(at::isIntegralType(x.tensor.scalar_type(), /*includeBool=*/false), kTiledOp,
                      ": ", x.name, " must hold integers, got ", x.tensor.dtype());
    check_device(kTiledOp, {"q", in.q}, {x});
  }
  const c10::SymInt B = in.q.sym_size(0), H = in.q.sym_size(1), D = in.q.sym_size(3);
  const auto check = [&](const Named& x, const at::Tensor& of_tiles) {
    // in words: S is what users get wrong
    check_shape(kTiledOp, x,
                {{"B", B},
                 {"H", H},
                 {c10::str("S=", of_tiles.sym_size(0), " tiles x ", sizes.slots),
                  of_tiles.sym_size(0) * sizes.slots},
                 {"D", D}});
    check_alike(kTiledOp, {"q", in.q}, {x});
  };
  check({"q", in.q}, sizes.of_queries);
  check({"k", in.k}, sizes.of_keys);
  check({"v", in.v}, sizes.of_keys);
  if (in.gate.defined()) {  // broadcasts, as there
    check_rank(kTiledOp, {"compress_attn_weight", in.gate}, 4, "B H S D");
    check_alike(kTiledOp, {"q", in.q}, {{"compress_attn_weight", in.gate}});
    for (int64_t i = 0; i < 4; ++i) {
      TORCH_CHECK_VALUE(in.gate.sym_size(i) == in.q.sym_size(i) || in.gate.sym_size(i) == 1,
                        kTiledOp, ": compress_attn_weight must be like q or 1 in each dimension, ",
                        in.q.sym_sizes(), ", got ", in.gate.sym_sizes());
    }
  }
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
  const Grid tile = three("block_size", block_size);
  TORCH_CHECK_VALUE(tile[0] >= 1 && tile[1] >= 1 && tile[2] >= 1, kTiledOp,
                    ": block_size must be at least 1x1x1, got ", block_size);
  const int64_t tile_slots = volume(tile);
  check_tiled(
      {.q = q, .k = k, .v = v, .gate = compress_attn_weight.value_or(at::Tensor())},
      {.of_queries = q_variable_block_sizes, .of_keys = variable_block_sizes, .slots = tile_slots});
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
