// Self-attention as an object given at construction: sparse student, dense scores,
// sequence-parallel wrappers.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

// Sizes and tile indices of one latent shape; made once, passed to every layer of every step.
struct AttentionPlan {
  int64_t T = 0, H = 0, W = 0;  // token grid: latent frames, latent height and width / patch
  at::Tensor tile_index;        // [S] int64: raster index of the j-th token in tile order
  at::Tensor raster_slot;       // [S] int64: padded slot (tile * 64 + offset) of raster token s
  at::Tensor non_pad;           // [S] int64: padded slot of the j-th token in tile order
  at::Tensor tile_sizes;        // [N] int32: valid tokens of each tile, 1 to 64
  int64_t tile_slots = 64;      // slots of a tile
};

// Token grid (T, H, W) cut into 4x4x4 tiles, tile order t-major, ragged tiles compacted
// (docs/kernels/video_sparse_attn.md).
AttentionPlan plan_tiles(int64_t T, int64_t H, int64_t W, at::Device device);

struct AttentionInputs {
  at::Tensor q;     // [B, S, H, D], normed and rotated
  at::Tensor k;     // [B, S, H, D]
  at::Tensor v;     // [B, S, H, D]
  at::Tensor gate;  // [B, S, H, D], undefined unless wants_gate()
};

// No weights here; the gate's projection stays in the model's block.
class Attention {
 public:
  Attention() = default;
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;
  virtual ~Attention() = default;
  virtual bool wants_gate() const = 0;
  virtual at::Tensor forward(const AttentionInputs& in,
                             const AttentionPlan& plan) const = 0;  // [B, S, H, D]
};

class FullAttention final : public Attention {
 public:
  bool wants_gate() const override { return false; }
  at::Tensor forward(const AttentionInputs& in, const AttentionPlan& plan) const override;
};

enum class TopkRule {
  kPadded,
  kUnpadded
};  // the two published formulas: vsa_topk, vsa_topk_unpadded

struct Sparsity {
  double value = 0.0;  // fraction of key tiles left out, in [0, 1)
  TopkRule rule = TopkRule::kPadded;
};

class VsaAttention final : public Attention {
 public:
  // `gated`: whether the model has gate weights; without them there is no coarse term.
  VsaAttention(Sparsity sparsity, bool gated) : sparsity_(sparsity), gated_(gated) {}
  bool wants_gate() const override { return gated_; }
  at::Tensor forward(const AttentionInputs& in, const AttentionPlan& plan) const override;

 private:
  Sparsity sparsity_;
  bool gated_;
};

// softmax(q k^T / sqrt(D)) v with no mask; q [B, S, H, D], k and v [B, L, H, D] -> [B, S, H, D].
at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace fastwan::ops
