#include "ops/vsa.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"

namespace fastwan::ops {
namespace {

// Query tiles that block_attention takes at once: bounds the gathered keys.
constexpr int64_t kGatheredSlots = 1 << 15;

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

at::Tensor int_tensor(const std::vector<int64_t>& values, at::ScalarType type, at::Device device) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::kLong)
      .to(type)
      .clone()
      .to(device);
}

// Accumulates in fp32, or in fp64 for fp64 inputs.
at::ScalarType sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace

AttentionPlan plan_tiles(int64_t T, int64_t H, int64_t W, at::Device device) {
  if (T < 1 || H < 1 || W < 1) {
    throw InvalidInput(Code::kBadShape,
                       str("a token grid needs at least 1x1x1 tokens, got ", T, "x", H, "x", W));
  }
  std::vector<int64_t> tile_index, non_pad, tile_sizes;
  std::vector<int64_t> raster_slot(static_cast<std::size_t>(T * H * W));
  for (int64_t t0 = 0; t0 < T; t0 += kTileSide) {
    for (int64_t h0 = 0; h0 < H; h0 += kTileSide) {
      for (int64_t w0 = 0; w0 < W; w0 += kTileSide) {
        const int64_t first_slot = static_cast<int64_t>(tile_sizes.size()) * kTileSlots;
        int64_t size = 0;
        for (int64_t t = t0; t < std::min(t0 + kTileSide, T); ++t) {
          for (int64_t h = h0; h < std::min(h0 + kTileSide, H); ++h) {
            for (int64_t w = w0; w < std::min(w0 + kTileSide, W); ++w) {
              const int64_t raster = (t * H + h) * W + w;
              tile_index.push_back(raster);
              non_pad.push_back(first_slot + size);
              raster_slot[static_cast<std::size_t>(raster)] = first_slot + size;
              ++size;
            }
          }
        }
        tile_sizes.push_back(size);
      }
    }
  }
  invariant(static_cast<int64_t>(tile_sizes.size()) ==
                divide_up(T, kTileSide) * divide_up(H, kTileSide) * divide_up(W, kTileSide),
            "one size a tile");
  return {.T = T,
          .H = H,
          .W = W,
          .tile_index = int_tensor(tile_index, at::kLong, device),
          .raster_slot = int_tensor(raster_slot, at::kLong, device),
          .non_pad = int_tensor(non_pad, at::kLong, device),
          .tile_sizes = int_tensor(tile_sizes, at::kInt, device)};
}

at::Tensor to_tiles(const at::Tensor& x, const AttentionPlan& plan) {
  const int64_t slots = plan.tile_sizes.size(0) * kTileSlots;
  at::Tensor tiled = at::zeros({x.size(0), slots, x.size(2), x.size(3)}, x.options());
  return tiled.index_copy_(1, plan.raster_slot, x);  // [B, N*64, H, D]
}

at::Tensor to_raster(const at::Tensor& tiled, const AttentionPlan& plan) {
  return tiled.index_select(1, plan.raster_slot);  // [B, S, H, D]
}

at::Tensor tile_mean(const at::Tensor& tiled, const at::Tensor& tile_sizes) {
  const at::ScalarType sum = sum_type(tiled);
  const at::Tensor divisor = tile_sizes.to(sum).view({1, -1, 1, 1});
  return (tiled.unflatten(1, {-1, kTileSlots}).sum(2, /*keepdim=*/false, sum) / divisor)
      .to(tiled.scalar_type());  // [B, N, H, D]
}

at::Tensor block_select(const at::Tensor& scores, int64_t topk) {
  const int64_t num_tiles = scores.size(-1);
  if (topk < 1 || topk > num_tiles) {
    throw InvalidInput(Code::kBadValue,
                       str("block_select: topk must lie in [1, ", num_tiles, "], got ", topk));
  }
  const at::Tensor order =
      std::get<1>(at::sort(scores, /*stable=*/true, /*dim=*/-1, /*descending=*/true));
  return std::get<0>(at::sort(order.narrow(-1, 0, topk), /*stable=*/false, -1, false))
      .to(at::kInt);  // [B, H, Nq, K]
}

at::Tensor block_attention(const at::Tensor& q,
                           const at::Tensor& k,
                           const at::Tensor& v,
                           const at::Tensor& block_index,
                           const at::Tensor& tile_sizes) {
  const int64_t B = q.size(0), H = q.size(2), D = q.size(3);
  const int64_t N = tile_sizes.size(0);
  const int64_t K = block_index.size(3);
  const at::ScalarType sum = sum_type(q);
  const double scale = 1.0 / std::sqrt(static_cast<double>(D));
  const at::Tensor is_pad = at::arange(kTileSlots, tile_sizes.options()).unsqueeze(0) >=
                            tile_sizes.unsqueeze(1);  // [N, 64]
  const int64_t step = std::max<int64_t>(1, kGatheredSlots / (K * kTileSlots));
  at::Tensor out = at::empty_like(q, at::MemoryFormat::Contiguous);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      const auto tiles_of = [&](const at::Tensor& x) {
        return x.select(0, b).select(1, h).to(sum).reshape({N, kTileSlots, D});
      };
      const at::Tensor q_tiles = tiles_of(q), k_tiles = tiles_of(k), v_tiles = tiles_of(v);
      const at::Tensor chosen = block_index.select(0, b).select(0, h).to(at::kLong);  // [N, K]
      at::Tensor out_tiles = out.select(0, b).select(1, h).view({N, kTileSlots, D});
      for (int64_t first = 0; first < N; first += step) {
        const int64_t n = std::min(step, N - first);
        const at::Tensor ids = chosen.narrow(0, first, n).flatten();  // [n*K]
        const at::Tensor keys = k_tiles.index_select(0, ids).view({n, K * kTileSlots, D});
        const at::Tensor values = v_tiles.index_select(0, ids).view({n, K * kTileSlots, D});
        const at::Tensor masked = is_pad.index_select(0, ids).view({n, 1, K * kTileSlots});
        const at::Tensor scores =
            (at::matmul(q_tiles.narrow(0, first, n), keys.transpose(1, 2)) * scale)
                .masked_fill(masked, -std::numeric_limits<double>::infinity());  // [n, 64, K*64]
        out_tiles.narrow(0, first, n).copy_(at::matmul(at::softmax(scores, -1), values));
      }
    }
  }
  return out;  // [B, N*64, H, D]
}

at::Tensor video_sparse_attn_raster(const AttentionInputs& in,
                                    const AttentionPlan& plan,
                                    int64_t topk) {
  Shapes shapes("video_sparse_attn_raster");
  const std::string tokens = str("B ", plan.T * plan.H * plan.W, " H D");
  shapes.expect("q", in.q.sizes(), tokens);
  shapes.expect("k", in.k.sizes(), tokens);
  shapes.expect("v", in.v.sizes(), tokens);
  const at::Tensor q = to_tiles(in.q, plan);  // [B, N*64, H, D]
  const at::Tensor k = to_tiles(in.k, plan);
  const at::Tensor v = to_tiles(in.v, plan);

  // Coarse: attention between tile means, all tiles take part. Each product is rounded to the
  // inputs' type before the next operation, as the published kernels do.
  const at::Tensor q_mean = tile_mean(q, plan.tile_sizes).transpose(1, 2);  // [B, H, N, D]
  const at::Tensor k_mean = tile_mean(k, plan.tile_sizes).transpose(1, 2);
  const double root = std::sqrt(static_cast<double>(in.q.size(3)));
  const at::Tensor scores = at::matmul(q_mean, k_mean.transpose(2, 3)) / root;  // [B, H, N, N]
  const at::Tensor index = block_select(scores, topk);

  const at::Tensor fine = to_raster(block_attention(q, k, v, index, plan.tile_sizes), plan);
  if (!in.gate.defined()) {
    return fine;  // [B, S, H, D]
  }
  shapes.expect("gate", in.gate.sizes(), tokens);
  const at::Tensor v_mean = tile_mean(v, plan.tile_sizes).transpose(1, 2);
  const at::Tensor coarse =
      at::matmul(at::softmax(scores, -1), v_mean).transpose(1, 2);                  // [B, N, H, D]
  const at::Tensor tile_of_token = at::floor_divide(plan.raster_slot, kTileSlots);  // [S]
  return coarse.index_select(1, tile_of_token) * in.gate + fine;                    // [B, S, H, D]
}

at::Tensor VsaAttention::forward(const AttentionInputs& in, const AttentionPlan& plan) const {
  const int64_t num_tiles = plan.tile_sizes.size(0);
  const int64_t topk =
      sparsity_.rule == TopkRule::kPadded
          ? vsa_topk(sparsity_.value, num_tiles)
          : vsa_topk_unpadded(sparsity_.value, plan.T * plan.H * plan.W, num_tiles);
  return video_sparse_attn_raster(in, plan, topk);
}

}  // namespace fastwan::ops
