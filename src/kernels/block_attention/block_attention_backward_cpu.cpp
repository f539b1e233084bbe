// Schedule  keys and values of a head are packed once, in three panel layouts; a segment of a
// head's
//           query tiles walks their lists: scores and weights again from lse, then five products a
//           pair of tiles. grad_q stays in scratch, gradients of keys and values are added into the
//           segment's sums, which a last step adds in the order of segments
// Order     a segment is computed by one thread in the order of its lists: the same bits at any
//           number of threads, and no atomics
#include <algorithm>

#include "kernels/block_attention/block_attention_backward.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/block_attention/block_attention_backward_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/block_attention/tile_rows-inl.h"
#include "kernels/common/simd/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace {

// Where things lie in a packed key tile, in a segment's sums and in scratch, in floats.
struct BackwardLayout {
  int64_t W, Tk_padded, D_padded;
  int64_t K, KT, VT, tile;       // K panels [D_padded / W][Tk][W]; K^T, V^T [Tk_padded / W][D][W]
  int64_t dK, dV, sums_of_tile;  // [Tk][D_padded] each
  int64_t Q, dO, Qp, dOp, P, dS, dQ, lse, delta, end;

  explicit BackwardLayout(const BlockAttentionDims& d)
      : W(panel_width()),
        Tk_padded(round_up(d.Tk, W)),
        D_padded(round_up(d.D, W)),
        K(0),
        KT(K + D_padded * d.Tk),
        VT(KT + Tk_padded * d.D),
        tile(VT + Tk_padded * d.D),
        dK(0),
        dV(d.Tk * D_padded),
        sums_of_tile(2 * d.Tk * D_padded),
        Q(0),
        dO(Q + round_up(d.Tq * d.D, W)),
        Qp(dO + round_up(d.Tq * d.D, W)),
        dOp(Qp + D_padded * d.Tq),
        P(dOp + D_padded * d.Tq),
        dS(P + d.Tq * Tk_padded),
        dQ(dS + d.Tq * Tk_padded),
        lse(dQ + d.Tq * D_padded),
        delta(lse + round_up(d.Tq, W)),
        end(delta + round_up(d.Tq, W)) {}
};

template <class Element>
void pack(const BlockAttentionBackwardArgs<Element>& a,
          const cpu::BackwardWork& work,
          Range key_tiles) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const BackwardLayout layout(a.dims);
  for (int64_t i = key_tiles.begin; i < key_tiles.end; ++i) {
    const int64_t bh = i / Nk, tile = i % Nk;
    float* to = work.packed + (i - work.first_bh * Nk) * layout.tile;
    const TilePlace place{
        .b = bh / H, .h = bh % H, .first = tile * Tk, .size = a.list.kv_sizes[tile]};
    pack_rows(a.k, place, D, Tk, to + layout.K);
    pack_transposed(a.k, place, D, to + layout.KT);
    pack_transposed(a.v, place, D, to + layout.VT);
  }
}

// out[rows, columns] = A B, A [rows, depth] with rows innermost in memory or not; or added to out.
struct Product {
  const float* a;
  int64_t a_row, a_depth;
  int64_t rows, depth;
  const float* b;        // panels, one after another
  int64_t panel_floats;  // of b
  int64_t columns;
  float* out;
  int64_t out_row;
};

template <class Store>
HWY_INLINE void multiply(const Product& p, const Store& store_two) {
  const F32 f32;
  const int64_t W = panel_width();
  const float* b = p.b;
  for (int64_t first = 0; first < p.columns; first += W, b += p.panel_floats) {
    float* out = p.out + first;
    multiply_panel(
        f32, {.a = p.a, .a_row = p.a_row, .a_depth = p.a_depth, .b = b, .depth = p.depth}, p.rows,
        [&](int64_t r, Vec left, Vec right)
            HWY_ATTR { store_two(out + r * p.out_row, left, right); });
  }
}

void multiply_into(const Product& p) {
  const F32 f32;
  const int64_t lanes = panel_width() / 2;
  multiply(p, [&](float* to, Vec left, Vec right) HWY_ATTR {
    hn::Store(left, f32, to);
    hn::Store(right, f32, to + lanes);
  });
}

void multiply_add(const Product& p) {
  const F32 f32;
  const int64_t lanes = panel_width() / 2;
  multiply(p, [&](float* to, Vec left, Vec right) HWY_ATTR {
    hn::Store(hn::Add(hn::Load(f32, to), left), f32, to);
    hn::Store(hn::Add(hn::Load(f32, to + lanes), right), f32, to + lanes);
  });
}

// Scores become weights p, products with values become ds.
void weigh_gradients(
    const BackwardLayout& layout, float* scratch, int64_t rows, int64_t keys, float factor) {
  const F32 f32;
  const int64_t lanes = layout.W / 2;
  for (int64_t r = 0; r < rows; ++r) {
    float* P = scratch + layout.P + r * layout.Tk_padded;
    float* dS = scratch + layout.dS + r * layout.Tk_padded;
    const Vec lse = hn::Set(f32, scratch[layout.lse + r]);
    const Vec delta = hn::Set(f32, scratch[layout.delta + r]);
    const Vec scale = hn::Set(f32, factor);
    for (int64_t c = 0; c < keys; c += lanes) {
      const Vec p = exp2_of_nonpositive(f32, hn::MulSub(hn::Load(f32, P + c), scale, lse));
      hn::Store(p, f32, P + c);
      hn::Store(hn::Mul(p, hn::Sub(hn::Load(f32, dS + c), delta)), f32, dS + c);
    }
  }
}

template <class Element>
void load_query_tile(const BlockAttentionBackwardArgs<Element>& a,
                     const TilePlace& place,
                     float* scratch) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const BackwardLayout layout(a.dims);
  const int64_t first_row = (place.b * H + place.h) * Nq * Tq + place.first;
  for (int64_t r = 0; r < place.size; ++r) {
    float* dO = scratch + layout.dO + r * D;
    copy_row(a.q.row(place.b, place.first + r, place.h), D, scratch + layout.Q + r * D);
    copy_row(a.grad_out.row(place.b, place.first + r, place.h), D, dO);
    const Element* out = a.out.row(place.b, place.first + r, place.h);
    double delta = a.grad_lse ? -to_double(a.grad_lse[first_row + r]) : 0.0;
    for (int64_t c = 0; c < D; ++c) {
      delta += to_double(out[c]) * to_double(dO[c]);
    }
    scratch[layout.delta + r] = static_cast<float>(delta);
    scratch[layout.lse + r] = static_cast<float>(to_double(a.lse[first_row + r]) * kLog2E);
  }
  pack_rows(a.q, place, D, Tq, scratch + layout.Qp);
  pack_rows(a.grad_out, place, D, Tq, scratch + layout.dOp);
  std::fill_n(scratch + layout.dQ, Tq * layout.D_padded, 0.0F);
}

// One pair of a query tile in scratch and a packed key tile.
template <class Element>
void add_pair(const BlockAttentionBackwardArgs<Element>& a,
              const float* packed,
              float* sums,
              float* scratch,
              int64_t rows,
              int64_t keys) {
  const BlockAttentionDims& d = a.dims;
  const BackwardLayout layout(d);
  const int64_t S_row = layout.Tk_padded, D = d.D, W = layout.W;
  Product scores{.a = scratch + layout.Q,
                 .a_row = D,
                 .a_depth = 1,
                 .rows = rows,
                 .depth = D,
                 .b = packed + layout.KT,
                 .panel_floats = D * W,
                 .columns = keys,
                 .out = scratch + layout.P,
                 .out_row = S_row};
  multiply_into(scores);
  scores.a = scratch + layout.dO, scores.b = packed + layout.VT, scores.out = scratch + layout.dS;
  multiply_into(scores);
  weigh_gradients(layout, scratch, rows, keys, static_cast<float>(a.scale * kLog2E));
  multiply_add({.a = scratch + layout.dS,
                .a_row = S_row,
                .a_depth = 1,
                .rows = rows,
                .depth = keys,
                .b = packed + layout.K,
                .panel_floats = d.Tk * W,
                .columns = D,
                .out = scratch + layout.dQ,
                .out_row = layout.D_padded});
  Product of_keys{.a = scratch + layout.dS,  // transposed: keys are rows
                  .a_row = 1,
                  .a_depth = S_row,
                  .rows = keys,
                  .depth = rows,
                  .b = scratch + layout.Qp,
                  .panel_floats = d.Tq * W,
                  .columns = D,
                  .out = sums + layout.dK,
                  .out_row = layout.D_padded};
  multiply_add(of_keys);
  of_keys.a = scratch + layout.P, of_keys.b = scratch + layout.dOp, of_keys.out = sums + layout.dV;
  multiply_add(of_keys);
}

template <class Element>
void add_query_tile(const BlockAttentionBackwardArgs<Element>& a,
                    const float* packed_head,
                    float* sums,
                    float* scratch,
                    int64_t query_tile) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const BackwardLayout layout(a.dims);
  const int64_t bh = query_tile / Nq, n = query_tile % Nq;
  const int32_t count = a.list.count[query_tile];
  const TilePlace place{
      .b = bh / H, .h = bh % H, .first = n * Tq, .size = count == 0 ? 0 : a.list.q_sizes[n]};
  load_query_tile(a, place, scratch);
  for (int32_t i = 0; i < count && place.size > 0; ++i) {
    const int64_t tile = a.list.index[query_tile * K + i];
    add_pair(a, packed_head + tile * layout.tile, sums + tile * layout.sums_of_tile, scratch,
             place.size, a.list.kv_sizes[tile]);
  }
  for (int64_t t = 0; t < Tq; ++t) {
    Element* to = a.grad_q.row(place.b, place.first + t, place.h);
    if (t < place.size) {
      const float* dQ = scratch + layout.dQ + t * layout.D_padded;
      store_scaled(dQ, static_cast<float>(a.scale), D, to);
    } else {
      std::fill_n(to, D, Element{});
    }
  }
}

template <class Element>
void add_segments(const BlockAttentionBackwardArgs<Element>& a,
                  const cpu::BackwardWork& work,
                  float* scratch,
                  Range segments) {
  const int64_t Nq = a.dims.Nq, Nk = a.dims.Nk;
  const BackwardLayout layout(a.dims);
  for (int64_t i = segments.begin; i < segments.end; ++i) {
    const int64_t bh = i / work.segments, segment = i % work.segments;
    const float* packed_head = work.packed + (bh - work.first_bh) * Nk * layout.tile;
    float* sums = work.sums + (i - work.first_bh * work.segments) * Nk * layout.sums_of_tile;
    std::fill_n(sums, Nk * layout.sums_of_tile, 0.0F);
    for (int64_t n = segment * Nq / work.segments; n < (segment + 1) * Nq / work.segments; ++n) {
      add_query_tile(a, packed_head, sums, scratch, bh * Nq + n);
    }
  }
}

// The sums of all segments go into the first one's place, then out.
template <class Element>
void store_key_tiles(const BlockAttentionBackwardArgs<Element>& a,
                     const cpu::BackwardWork& work,
                     Range key_tiles) {
  const F32 f32;
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const BackwardLayout layout(a.dims);
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  for (int64_t i = key_tiles.begin; i < key_tiles.end; ++i) {
    const int64_t bh = i / Nk, tile = i % Nk;
    float* first =
        work.sums + ((bh - work.first_bh) * work.segments * Nk + tile) * layout.sums_of_tile;
    for (int64_t segment = 1; segment < work.segments; ++segment) {
      const float* other = first + segment * Nk * layout.sums_of_tile;
      for (int64_t c = 0; c < layout.sums_of_tile; c += lanes) {
        hn::Store(hn::Add(hn::Load(f32, first + c), hn::Load(f32, other + c)), f32, first + c);
      }
    }
    for (int64_t t = 0; t < Tk; ++t) {
      Element* dk = a.grad_k.row(bh / H, tile * Tk + t, bh % H);
      Element* dv = a.grad_v.row(bh / H, tile * Tk + t, bh % H);
      if (t < a.list.kv_sizes[tile]) {
        const float* row = first + t * layout.D_padded;
        store_scaled(row + layout.dK, static_cast<float>(a.scale), D, dk);
        store_scaled(row + layout.dV, 1.0F, D, dv);
      } else {
        std::fill_n(dk, D, Element{});
        std::fill_n(dv, D, Element{});
      }
    }
  }
}

}  // namespace

cpu::BackwardFloats backward_floats_of(const BlockAttentionDims& dims) {
  const BackwardLayout layout(dims);
  return {.packed = dims.Nk * layout.tile,
          .sums = dims.Nk * layout.sums_of_tile,
          .scratch = layout.end};
}
void pack_keys_float(const cpu::BackwardFloatArgs& a, const cpu::BackwardWork& work, Range tiles) {
  pack(a, work, tiles);
}
void pack_keys_bf16(const cpu::BackwardBf16Args& a, const cpu::BackwardWork& work, Range tiles) {
  pack(a, work, tiles);
}
void accumulate_float(const cpu::BackwardFloatArgs& a,
                      const cpu::BackwardWork& work,
                      float* scratch,
                      Range segments) {
  add_segments(a, work, scratch, segments);
}
void accumulate_bf16(const cpu::BackwardBf16Args& a,
                     const cpu::BackwardWork& work,
                     float* scratch,
                     Range segments) {
  add_segments(a, work, scratch, segments);
}
void store_keys_float(const cpu::BackwardFloatArgs& a, const cpu::BackwardWork& work, Range tiles) {
  store_key_tiles(a, work, tiles);
}
void store_keys_bf16(const cpu::BackwardBf16Args& a, const cpu::BackwardWork& work, Range tiles) {
  store_key_tiles(a, work, tiles);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels::cpu {
HWY_EXPORT(backward_floats_of);
HWY_EXPORT(pack_keys_float);
HWY_EXPORT(pack_keys_bf16);
HWY_EXPORT(accumulate_float);
HWY_EXPORT(accumulate_bf16);
HWY_EXPORT(store_keys_float);
HWY_EXPORT(store_keys_bf16);

BackwardFloats backward_floats(const BlockAttentionDims& dims) {
  return HWY_DYNAMIC_DISPATCH(backward_floats_of)(dims);
}
void pack_keys(const BackwardFloatArgs& args, const BackwardWork& work, Range tiles) {
  HWY_DYNAMIC_DISPATCH(pack_keys_float)(args, work, tiles);
}
void pack_keys(const BackwardBf16Args& args, const BackwardWork& work, Range tiles) {
  HWY_DYNAMIC_DISPATCH(pack_keys_bf16)(args, work, tiles);
}
void accumulate(const BackwardFloatArgs& args,
                const BackwardWork& work,
                float* scratch,
                Range segments) {
  HWY_DYNAMIC_DISPATCH(accumulate_float)(args, work, scratch, segments);
}
void accumulate(const BackwardBf16Args& args,
                const BackwardWork& work,
                float* scratch,
                Range segments) {
  HWY_DYNAMIC_DISPATCH(accumulate_bf16)(args, work, scratch, segments);
}
void store_key_gradients(const BackwardFloatArgs& args, const BackwardWork& work, Range tiles) {
  HWY_DYNAMIC_DISPATCH(store_keys_float)(args, work, tiles);
}
void store_key_gradients(const BackwardBf16Args& args, const BackwardWork& work, Range tiles) {
  HWY_DYNAMIC_DISPATCH(store_keys_bf16)(args, work, tiles);
}
}  // namespace fastwan::kernels::cpu
#endif
