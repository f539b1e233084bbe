// Rows of a tile in and out of the layouts that the CPU kernels of block attention multiply. Per
// target: include it after hwy/highway.h, inside no namespace.
#if defined(FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_ROWS_INL_H
#undef FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_ROWS_INL_H
#else
#define FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_ROWS_INL_H
#endif

#include <algorithm>
#include <cstdint>

#include <hwy/highway.h>

#include "kernels/block_attention/block_attention.h"
#include "kernels/common/simd/elements-inl.h"
#include "kernels/common/simd/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace {

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.69314718055994531;

HWY_INLINE int64_t round_up(int64_t x, int64_t to) {
  return (x + to - 1) / to * to;
}

// The tokens of one tile of one head.
struct TilePlace {
  int64_t b, h;
  int64_t first;  // token
  int64_t size;   // tokens
};

template <class Element>
void copy_row(const Element* from, int64_t D, float* to) {
  const F32 f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  int64_t c = 0;
  for (; c + lanes <= D; c += lanes) {
    hn::StoreU(load_row(f32, from + c), f32, to + c);
  }
  for (; c < D; ++c) {
    hn::StoreU(load_row(one, from + c), one, to + c);
  }
}

// to = from * factor.
template <class Element>
void store_scaled(const float* from, float factor, int64_t D, Element* to) {
  const F32 f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  int64_t c = 0;
  for (; c + lanes <= D; c += lanes) {
    store_row(f32, hn::Mul(hn::LoadU(f32, from + c), hn::Set(f32, factor)), to + c);
  }
  for (; c < D; ++c) {
    store_row(one, hn::Mul(hn::LoadU(one, from + c), hn::Set(one, factor)), to + c);
  }
}

// Tokens become columns: panels [panel][D][W] of W tokens; columns without a token are zero.
template <class Element>
void pack_transposed(const Tokens<const Element>& x, const TilePlace& place, int64_t D, float* to) {
  const int64_t W = panel_width();
  for (int64_t first = 0; first < place.size; first += W, to += D * W) {
    for (int64_t j = 0; j < W; ++j) {
      const bool has_token = first + j < place.size;
      const Element* row = has_token ? x.row(place.b, place.first + first + j, place.h) : nullptr;
      for (int64_t c = 0; c < D; ++c) {
        to[c * W + j] = has_token ? static_cast<float>(to_double(row[c])) : 0.0F;
      }
    }
  }
}

// Tokens stay rows: panels [panel][T][W] of W channels; channels beyond D are zero.
template <class Element>
void pack_rows(
    const Tokens<const Element>& x, const TilePlace& place, int64_t D, int64_t T, float* to) {
  const int64_t W = panel_width();
  for (int64_t first = 0; first < D; first += W, to += T * W) {
    const int64_t width = std::min(W, D - first);
    for (int64_t t = 0; t < place.size; ++t) {
      copy_row(x.row(place.b, place.first + t, place.h) + first, width, to + t * W);
      std::fill(to + t * W + width, to + (t + 1) * W, 0.0F);
    }
  }
}

}  // namespace
}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
