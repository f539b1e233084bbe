// Schedule  keys and values of a head are packed once, in panels of two vectors; a query tile keeps
//           its rows, scores, weights and output in scratch that fits the L2 cache, and walks its
//           list: scores = Q K^T, online softmax, output = output * decay + weights V
// Partial   tiles cost what they hold: rows and keys beyond their size are not computed, up to
//           the width of a panel of keys
// Words     what is multiplied lies in words of 32 bits: a float, or a pair of bf16 that are
//           neighbours along the depth of the product
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/block_attention/block_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/block_attention/block_attention_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/block_attention/tile_words-inl.h"
#include "kernels/common/simd/exp2-inl.h"
#include "kernels/common/simd/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace {

// Where a head's packed key tiles lie, and one worker's scratch. All parts start on whole panels,
// so vectors stay aligned.
struct Layout {
  int64_t W;                  // columns of a panel
  int64_t Tk_padded;          // keys of a tile in whole panels
  int64_t D_padded;           // channels in whole panels
  int64_t D_words, Tk_words;  // words along the depth of either product
  int64_t key_words;          // of one packed tile: K^T panels [Tk_padded / W][D_words][W]
  int64_t tile_words;         // then V panels [D_padded / W][Tk_words][W]
  int64_t Q, S, O, top, sum, divisor, decay, end;  // offsets in scratch

  Layout(const BlockAttentionDims& d, int64_t per_word)
      : W(panel_width()),
        Tk_padded(round_up(d.Tk, W)),
        D_padded(round_up(d.D, W)),
        D_words((d.D + per_word - 1) / per_word),
        Tk_words((d.Tk + per_word - 1) / per_word),
        key_words(Tk_padded * D_words),
        tile_words(key_words + D_padded * Tk_words),
        Q(0),
        S(Q + round_up(d.Tq * D_words, W)),
        O(S + d.Tq * Tk_padded),
        top(O + d.Tq * D_padded),
        sum(top + round_up(d.Tq, W)),
        divisor(sum + round_up(d.Tq, W)),
        decay(divisor + round_up(d.Tq, W)),
        end(decay + round_up(d.Tq, W)) {}
};

template <class Words, class Element>
void pack(const BlockAttentionArgs<Element>& a, const cpu::PackedKeys& packed, Range key_tiles) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const Layout layout(a.dims, Words::kPerWord);
  for (int64_t i = key_tiles.begin; i < key_tiles.end; ++i) {
    const int64_t bh = i / Nk, tile = i % Nk;
    float* to = packed.data + (i - packed.first_bh * Nk) * layout.tile_words;
    const TilePlace place{
        .b = bh / H, .h = bh % H, .first = tile * Tk, .size = a.list.kv_sizes[tile]};
    Words::pack_keys(a.k, place, D, to);
    Words::pack_values(a.v, place, D, Tk, to + layout.key_words);
  }
}

// One query tile's running softmax: rows of scratch.
struct QueryTile {
  const Layout& layout;
  int64_t rows;
  int64_t D;
  float* Q;        // [rows, D_words]
  float* S;        // [rows, Tk_padded] scores in units of log2, then weights as words
  float* O;        // [rows, D_padded] not yet divided
  float* top;      // [rows] highest score so far
  float* sum;      // [rows] of weights so far
  float* divisor;  // [rows] the sum of weights as they met values
  float* decay;    // [rows] factor of what was summed before this tile

  QueryTile(const Layout& l, const BlockAttentionDims& d, int64_t size, float* scratch)
      : layout(l),
        rows(size),
        D(d.D),
        Q(scratch + l.Q),
        S(scratch + l.S),
        O(scratch + l.O),
        top(scratch + l.top),
        sum(scratch + l.sum),
        divisor(scratch + l.divisor),
        decay(scratch + l.decay) {}
};

// S = factor * Q K^T over `keys` columns.
template <class Words>
void score(const QueryTile& x, const float* packed_keys, int64_t keys, float factor) {
  const F32 f32;
  const int64_t W = x.layout.W, stride = x.layout.Tk_padded, depth = x.layout.D_words;
  const auto lanes = W / 2;
  const Vec scale = hn::Set(f32, factor);
  for (int64_t first = 0; first < keys; first += W, packed_keys += depth * W) {
    float* S = x.S + first;
    multiply_panel(
        f32, {.a = x.Q, .a_row = depth, .a_depth = 1, .b = packed_keys, .depth = depth}, x.rows,
        [&](int64_t r, Vec left, Vec right) HWY_ATTR {
          hn::Store(hn::Mul(left, scale), f32, S + r * stride);
          hn::Store(hn::Mul(right, scale), f32, S + r * stride + lanes);
        },
        typename Words::Step());
  }
}

// Scores become weights 2^(score - top); top, sums and decay move on.
template <class Words>
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
    Vec total = hn::Zero(f32), total_seen = total;
    for (int64_t c = 0; c < padded; c += lanes) {
      const Vec weight = exp2_of_nonpositive(f32, hn::Sub(hn::Load(f32, S + c), shift));
      const Vec seen = Words::store_weights(weight, S, c);
      total = hn::Add(total, weight);
      if constexpr (Words::kRoundsWeights) {
        total_seen = hn::Add(total_seen, seen);
      }
    }
    // columns without a key add 2^-126 each: nothing beside a sum of at least 1
    x.decay[r] = hn::GetLane(exp2_of_nonpositive(f32, hn::Sub(hn::Set(f32, x.top[r]), shift)));
    x.sum[r] = x.sum[r] * x.decay[r] + hn::GetLane(hn::SumOfLanes(f32, total));
    if constexpr (Words::kRoundsWeights) {
      x.divisor[r] = x.divisor[r] * x.decay[r] + hn::GetLane(hn::SumOfLanes(f32, total_seen));
    }
    x.top[r] = top;
  }
}

// O = O * decay + S V.
template <class Words>
void accumulate(const QueryTile& x, const float* packed_values, int64_t keys) {
  const F32 f32;
  const int64_t W = x.layout.W, stride = x.layout.D_padded;
  const int64_t depth = (keys + Words::kPerWord - 1) / Words::kPerWord;
  const auto lanes = W / 2;
  for (int64_t first = 0; first < x.D; first += W, packed_values += x.layout.Tk_words * W) {
    multiply_panel(
        f32,
        {.a = x.S, .a_row = x.layout.Tk_padded, .a_depth = 1, .b = packed_values, .depth = depth},
        x.rows,
        [&](int64_t r, Vec left, Vec right) HWY_ATTR {
          float* to = x.O + r * stride + first;
          const Vec decay = hn::Set(f32, x.decay[r]);
          hn::Store(hn::MulAdd(hn::Load(f32, to), decay, left), f32, to);
          hn::Store(hn::MulAdd(hn::Load(f32, to + lanes), decay, right), f32, to + lanes);
        },
        typename Words::Step());
  }
}

template <class Words, class Element>
void attend(const BlockAttentionArgs<Element>& a,
            const cpu::PackedKeys& packed,
            float* scratch,
            int64_t query_tile) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const Layout layout(a.dims, Words::kPerWord);
  const int64_t bh = query_tile / Nq, n = query_tile % Nq, b = bh / H, h = bh % H;
  const int32_t count = a.list.count[query_tile];
  const QueryTile x(layout, a.dims, count == 0 ? 0 : a.list.q_sizes[n], scratch);
  for (int64_t r = 0; r < x.rows; ++r) {
    Words::copy_query(a.q.row(b, n * Tq + r, h), D, x.Q + r * layout.D_words);
  }
  std::fill(x.O, x.O + x.rows * layout.D_padded, 0.0F);
  std::fill(x.sum, x.sum + x.rows, 0.0F);
  std::fill(x.divisor, x.divisor + x.rows, 0.0F);
  std::fill(x.top, x.top + x.rows, -std::numeric_limits<float>::infinity());
  const float* head = packed.data + (bh - packed.first_bh) * Nk * layout.tile_words;
  for (int32_t i = 0; i < count && x.rows > 0; ++i) {
    const int64_t tile = a.list.index[query_tile * K + i];
    const int64_t keys = a.list.kv_sizes[tile];
    const float* key_tile = head + tile * layout.tile_words;
    score<Words>(x, key_tile, keys, static_cast<float>(a.scale * kLog2E));
    weigh<Words>(x, keys);
    accumulate<Words>(x, key_tile + layout.key_words, keys);
  }
  float* lse = a.lse + bh * Nq * Tq + n * Tq;
  const float* divisor = Words::kRoundsWeights ? x.divisor : x.sum;
  for (int64_t r = 0; r < x.rows; ++r) {
    store_scaled(x.O + r * layout.D_padded, 1.0F / divisor[r], D, a.out.row(b, n * Tq + r, h));
    lse[r] = static_cast<float>(static_cast<double>(x.top[r]) * kLn2 +
                                std::log(static_cast<double>(x.sum[r])));
  }
  for (int64_t r = x.rows; r < Tq; ++r) {
    std::fill_n(a.out.row(b, n * Tq + r, h), D, Element{});
    lse[r] = -std::numeric_limits<float>::infinity();
  }
}

template <class Words, class Element>
void attend_tiles(const BlockAttentionArgs<Element>& a,
                  const cpu::PackedKeys& packed,
                  float* scratch,
                  Range tiles) {
  for (int64_t i = tiles.begin; i < tiles.end; ++i) {
    attend<Words>(a, packed, scratch, i);
  }
}

}  // namespace

cpu::Bf16Products best_bf16_products_of() {
  return has_bf16_pairs() ? cpu::Bf16Products::kPairs : cpu::Bf16Products::kWidened;
}
// Enough for pairs, too.
int64_t packed_floats_of(const BlockAttentionDims& dims) {
  return dims.Nk * Layout(dims, FloatWords::kPerWord).tile_words;
}
int64_t scratch_floats_of(const BlockAttentionDims& dims) {
  return Layout(dims, FloatWords::kPerWord).end;
}
void pack_keys_float(const BlockAttentionArgs<float>& a,
                     const cpu::PackedKeys& packed,
                     Range tiles) {
  pack<FloatWords>(a, packed, tiles);
}
void pack_keys_bf16(const BlockAttentionArgs<Bf16>& a, const cpu::PackedKeys& packed, Range tiles) {
#if FASTWAN_BF16_PAIRS
  if (packed.products == cpu::Bf16Products::kPairs) {
    return pack<PairWords>(a, packed, tiles);
  }
#endif
  pack<FloatWords>(a, packed, tiles);
}
void attend_float(const BlockAttentionArgs<float>& a,
                  const cpu::PackedKeys& packed,
                  float* scratch,
                  Range tiles) {
  attend_tiles<FloatWords>(a, packed, scratch, tiles);
}
void attend_bf16(const BlockAttentionArgs<Bf16>& a,
                 const cpu::PackedKeys& packed,
                 float* scratch,
                 Range tiles) {
#if FASTWAN_BF16_PAIRS
  if (packed.products == cpu::Bf16Products::kPairs) {
    return attend_tiles<PairWords>(a, packed, scratch, tiles);
  }
#endif
  attend_tiles<FloatWords>(a, packed, scratch, tiles);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels::cpu {
HWY_EXPORT(best_bf16_products_of);
HWY_EXPORT(packed_floats_of);
HWY_EXPORT(scratch_floats_of);
HWY_EXPORT(pack_keys_float);
HWY_EXPORT(pack_keys_bf16);
HWY_EXPORT(attend_float);
HWY_EXPORT(attend_bf16);

Bf16Products best_bf16_products() {
  return HWY_DYNAMIC_DISPATCH(best_bf16_products_of)();
}
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
