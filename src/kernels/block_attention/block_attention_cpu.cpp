// Schedule  keys and values of a head are packed once, in panels of two vectors; a query tile keeps
//           its rows, scores, weights and output in scratch that fits the L2 cache, and walks its
//           list: scores = Q K^T, online softmax, output = output * decay + weights V
// Partial   tiles cost what they hold: rows and keys beyond their size are not computed, up to
//           the width of a panel of keys
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/block_attention/block_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/block_attention/block_attention_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/block_attention/tile_rows-inl.h"
#include "kernels/common/simd/exp2-inl.h"
#include "kernels/common/simd/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace {

// Where a head's packed key tiles lie, and one worker's scratch. All parts start on whole panels,
// so vectors stay aligned.
struct Layout {
  int64_t W;                              // columns of a panel
  int64_t Tk_padded;                      // keys of a tile in whole panels
  int64_t D_padded;                       // channels in whole panels
  int64_t key_floats;                     // of one packed tile: K^T panels [Tk_padded / W][D][W]
  int64_t tile_floats;                    // then V panels [D_padded / W][Tk][W]
  int64_t Q, S, O, top, sum, decay, end;  // offsets in scratch

  explicit Layout(const BlockAttentionDims& d)
      : W(panel_width()),
        Tk_padded(round_up(d.Tk, W)),
        D_padded(round_up(d.D, W)),
        key_floats(Tk_padded * d.D),
        tile_floats(key_floats + D_padded * d.Tk),
        Q(0),
        S(Q + round_up(d.Tq * d.D, W)),
        O(S + d.Tq * Tk_padded),
        top(O + d.Tq * D_padded),
        sum(top + round_up(d.Tq, W)),
        decay(sum + round_up(d.Tq, W)),
        end(decay + round_up(d.Tq, W)) {}
};

template <class Element>
void pack(const BlockAttentionArgs<Element>& a, const cpu::PackedKeys& packed, Range key_tiles) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const Layout layout(a.dims);
  for (int64_t i = key_tiles.begin; i < key_tiles.end; ++i) {
    const int64_t bh = i / Nk, tile = i % Nk;
    float* to = packed.data + (i - packed.first_bh * Nk) * layout.tile_floats;
    const TilePlace place{
        .b = bh / H, .h = bh % H, .first = tile * Tk, .size = a.list.kv_sizes[tile]};
    pack_transposed(a.k, place, D, to);
    pack_rows(a.v, place, D, Tk, to + layout.key_floats);
  }
}

// One query tile's running softmax: rows of scratch.
struct QueryTile {
  const Layout& layout;
  int64_t rows;
  int64_t D, Tk;
  float* Q;      // [rows, D]
  float* S;      // [rows, Tk_padded] scores in units of log2, then weights
  float* O;      // [rows, D_padded] not yet divided by sum
  float* top;    // [rows] highest score so far
  float* sum;    // [rows] of weights so far
  float* decay;  // [rows] factor of what was summed before this tile

  QueryTile(const Layout& l, const BlockAttentionDims& d, int64_t size, float* scratch)
      : layout(l),
        rows(size),
        D(d.D),
        Tk(d.Tk),
        Q(scratch + l.Q),
        S(scratch + l.S),
        O(scratch + l.O),
        top(scratch + l.top),
        sum(scratch + l.sum),
        decay(scratch + l.decay) {}
};

// S = factor * Q K^T over `keys` columns.
void score(const QueryTile& x, const float* packed_keys, int64_t keys, float factor) {
  const F32 f32;
  const int64_t W = x.layout.W, stride = x.layout.Tk_padded;
  const auto lanes = W / 2;
  const Vec scale = hn::Set(f32, factor);
  for (int64_t first = 0; first < keys; first += W, packed_keys += x.D * W) {
    float* S = x.S + first;
    multiply_panel(f32, {.a = x.Q, .a_row = x.D, .a_depth = 1, .b = packed_keys, .depth = x.D},
                   x.rows, [&](int64_t r, Vec left, Vec right) HWY_ATTR {
                     hn::Store(hn::Mul(left, scale), f32, S + r * stride);
                     hn::Store(hn::Mul(right, scale), f32, S + r * stride + lanes);
                   });
  }
}

// Scores become weights 2^(score - top); top, sum and decay move on.
void weigh(const QueryTile& x, int64_t keys) {
  const F32 f32;
  const auto lanes = x.layout.W / 2;
  const int64_t padded = round_up(keys, lanes);
  for (int64_t r = 0; r < x.rows; ++r) {
    float* S = x.S + r * x.layout.Tk_padded;
    std::fill(S + keys, S + padded, -std::numeric_limits<float>::infinity());
    Vec highest = hn::Set(f32, x.top[r]);
    for (int64_t c = 0; c < padded; c += lanes) {
      highest = hn::Max(highest, hn::Load(f32, S + c));
    }
    const float top = hn::GetLane(hn::MaxOfLanes(f32, highest));
    const Vec shift = hn::Set(f32, top);
    Vec total = hn::Zero(f32);
    for (int64_t c = 0; c < padded; c += lanes) {
      const Vec weight = exp2_of_nonpositive(f32, hn::Sub(hn::Load(f32, S + c), shift));
      hn::Store(weight, f32, S + c);
      total = hn::Add(total, weight);
    }
    // columns without a key add 2^-126 each: nothing beside a sum of at least 1
    x.decay[r] = hn::GetLane(exp2_of_nonpositive(f32, hn::Sub(hn::Set(f32, x.top[r]), shift)));
    x.sum[r] = x.sum[r] * x.decay[r] + hn::GetLane(hn::SumOfLanes(f32, total));
    x.top[r] = top;
  }
}

// O = O * decay + S V.
void accumulate(const QueryTile& x, const float* packed_values, int64_t keys) {
  const F32 f32;
  const int64_t W = x.layout.W, stride = x.layout.D_padded;
  const auto lanes = W / 2;
  for (int64_t first = 0; first < x.D; first += W, packed_values += x.Tk * W) {
    multiply_panel(
        f32,
        {.a = x.S, .a_row = x.layout.Tk_padded, .a_depth = 1, .b = packed_values, .depth = keys},
        x.rows, [&](int64_t r, Vec left, Vec right) HWY_ATTR {
          float* to = x.O + r * stride + first;
          const Vec decay = hn::Set(f32, x.decay[r]);
          hn::Store(hn::MulAdd(hn::Load(f32, to), decay, left), f32, to);
          hn::Store(hn::MulAdd(hn::Load(f32, to + lanes), decay, right), f32, to + lanes);
        });
  }
}

template <class Element>
void attend(const BlockAttentionArgs<Element>& a,
            const cpu::PackedKeys& packed,
            float* scratch,
            int64_t query_tile) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const Layout layout(a.dims);
  const int64_t bh = query_tile / Nq, n = query_tile % Nq, b = bh / H, h = bh % H;
  const int32_t count = a.list.count[query_tile];
  const QueryTile x(layout, a.dims, count == 0 ? 0 : a.list.q_sizes[n], scratch);
  for (int64_t r = 0; r < x.rows; ++r) {
    copy_row(a.q.row(b, n * Tq + r, h), D, x.Q + r * D);
  }
  std::fill(x.O, x.O + x.rows * layout.D_padded, 0.0F);
  std::fill(x.sum, x.sum + x.rows, 0.0F);
  std::fill(x.top, x.top + x.rows, -std::numeric_limits<float>::infinity());
  const float* head = packed.data + (bh - packed.first_bh) * Nk * layout.tile_floats;
  for (int32_t i = 0; i < count && x.rows > 0; ++i) {
    const int64_t tile = a.list.index[query_tile * K + i];
    const int64_t keys = a.list.kv_sizes[tile];
    const float* key_tile = head + tile * layout.tile_floats;
    score(x, key_tile, keys, static_cast<float>(a.scale * kLog2E));
    weigh(x, keys);
    accumulate(x, key_tile + layout.key_floats, keys);
  }
  float* lse = a.lse + bh * Nq * Tq + n * Tq;
  for (int64_t r = 0; r < x.rows; ++r) {
    store_scaled(x.O + r * layout.D_padded, 1.0F / x.sum[r], D, a.out.row(b, n * Tq + r, h));
    lse[r] = static_cast<float>(static_cast<double>(x.top[r]) * kLn2 +
                                std::log(static_cast<double>(x.sum[r])));
  }
  for (int64_t r = x.rows; r < Tq; ++r) {
    std::fill_n(a.out.row(b, n * Tq + r, h), D, Element{});
    lse[r] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace

int64_t packed_floats_of(const BlockAttentionDims& dims) {
  return dims.Nk * Layout(dims).tile_floats;
}
int64_t scratch_floats_of(const BlockAttentionDims& dims) {
  return Layout(dims).end;
}
void pack_keys_float(const BlockAttentionArgs<float>& a,
                     const cpu::PackedKeys& packed,
                     Range tiles) {
  pack(a, packed, tiles);
}
void pack_keys_bf16(const BlockAttentionArgs<Bf16>& a, const cpu::PackedKeys& packed, Range tiles) {
  pack(a, packed, tiles);
}
void attend_float(const BlockAttentionArgs<float>& a,
                  const cpu::PackedKeys& packed,
                  float* scratch,
                  Range tiles) {
  for (int64_t i = tiles.begin; i < tiles.end; ++i) {
    attend(a, packed, scratch, i);
  }
}
void attend_bf16(const BlockAttentionArgs<Bf16>& a,
                 const cpu::PackedKeys& packed,
                 float* scratch,
                 Range tiles) {
  for (int64_t i = tiles.begin; i < tiles.end; ++i) {
    attend(a, packed, scratch, i);
  }
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels::cpu {
HWY_EXPORT(packed_floats_of);
HWY_EXPORT(scratch_floats_of);
HWY_EXPORT(pack_keys_float);
HWY_EXPORT(pack_keys_bf16);
HWY_EXPORT(attend_float);
HWY_EXPORT(attend_bf16);

int64_t packed_floats(const BlockAttentionDims& dims) {
  return HWY_DYNAMIC_DISPATCH(packed_floats_of)(dims);
}
int64_t scratch_floats(const BlockAttentionDims& dims) {
  return HWY_DYNAMIC_DISPATCH(scratch_floats_of)(dims);
}
void pack_keys(const BlockAttentionArgs<float>& args, const PackedKeys& packed, Range tiles) {
  HWY_DYNAMIC_DISPATCH(pack_keys_float)(args, packed, tiles);
}
void pack_keys(const BlockAttentionArgs<Bf16>& args, const PackedKeys& packed, Range tiles) {
  HWY_DYNAMIC_DISPATCH(pack_keys_bf16)(args, packed, tiles);
}
void block_attention(const BlockAttentionArgs<float>& args,
                     const PackedKeys& packed,
                     float* scratch,
                     Range tiles) {
  HWY_DYNAMIC_DISPATCH(attend_float)(args, packed, scratch, tiles);
}
void block_attention(const BlockAttentionArgs<Bf16>& args,
                     const PackedKeys& packed,
                     float* scratch,
                     Range tiles) {
  HWY_DYNAMIC_DISPATCH(attend_bf16)(args, packed, scratch, tiles);
}
}  // namespace fastwan::kernels::cpu
#endif
