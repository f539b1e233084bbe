// What block attention multiplies, in words of 32 bits: a float, or a pair of bf16 that are
// neighbours along the depth of the product. Per target: include it after hwy/highway.h, inside no
// namespace.
#if defined(FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_WORDS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_WORDS_INL_H
#undef FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_WORDS_INL_H
#else
#define FASTWAN_KERNELS_BLOCK_ATTENTION_TILE_WORDS_INL_H
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

#include "kernels/block_attention/block_attention.h"
#include "kernels/block_attention/tile_rows-inl.h"
#include "kernels/common/simd/bf16_pairs-inl.h"
#include "kernels/common/simd/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace {

struct FloatWords {
  static constexpr int64_t kPerWord = 1;
  static constexpr bool kRoundsWeights = false;
  using Step = MultiplyAdd;

  template <class Element>
  static void copy_query(const Element* from, int64_t D, float* to) {
    copy_row(from, D, to);
  }
  template <class Element>
  static void pack_keys(const Tokens<const Element>& k,
                        const TilePlace& place,
                        int64_t D,
                        float* to) {
    pack_transposed(k, place, D, to);
  }
  template <class Element>
  static void pack_values(
      const Tokens<const Element>& v, const TilePlace& place, int64_t D, int64_t Tk, float* to) {
    pack_rows(v, place, D, Tk, to);
  }
  // Weight c and those after it into a row of scores; returns what the product will see.
  static HWY_INLINE Vec store_weights(Vec weights, float* row, int64_t c) {
    hn::Store(weights, F32(), row + c);
    return weights;
  }
};

#if FASTWAN_BF16_PAIRS

// Behind an odd depth stands a 0.
struct PairWords {
  static constexpr int64_t kPerWord = 2;
  static constexpr bool kRoundsWeights = true;
  using Step = MultiplyAddPairs;

  static void copy_query(const Bf16* from, int64_t D, float* to) {
    std::memcpy(to, from, static_cast<std::size_t>(D) * sizeof(Bf16));
    if (D % 2 != 0) {
      put_pair(from[D - 1], Bf16{}, to + D / 2);
    }
  }

  // Panels [panel][words of D][W] of W tokens.
  static void pack_keys(const Tokens<const Bf16>& k, const TilePlace& place, int64_t D, float* to) {
    const int64_t W = panel_width(), words = (D + 1) / 2;
    for (int64_t first = 0; first < place.size; first += W, to += words * W) {
      const int64_t tokens = std::min(W, place.size - first);
      for (int64_t j = 0; j < tokens; ++j) {
        const Bf16* row = k.row(place.b, place.first + first + j, place.h);
        for (int64_t c = 0; c < D; c += 2) {
          put_pair(row[c], c + 1 < D ? row[c + 1] : Bf16{}, to + c / 2 * W + j);
        }
      }
      for (int64_t i = 0; i < words; ++i) {
        std::fill(to + i * W + tokens, to + (i + 1) * W, 0.0F);
      }
    }
  }

  // Panels [panel][words of Tk][W] of W channels.
  static void pack_values(
      const Tokens<const Bf16>& v, const TilePlace& place, int64_t D, int64_t Tk, float* to) {
    const int64_t W = panel_width(), words = (Tk + 1) / 2;
    for (int64_t first = 0; first < D; first += W, to += words * W) {
      const int64_t width = std::min(W, D - first);
      for (int64_t t = 0; t < place.size; t += 2) {
        const Bf16* even = v.row(place.b, place.first + t, place.h) + first;
        const bool has_odd = t + 1 < place.size;
        const Bf16* odd = has_odd ? v.row(place.b, place.first + t + 1, place.h) + first : nullptr;
        float* row = to + t / 2 * W;
        for (int64_t c = 0; c < width; ++c) {
          put_pair(even[c], has_odd ? odd[c] : Bf16{}, row + c);
        }
        std::fill(row + width, row + W, 0.0F);
      }
    }
  }

  // In place: the pairs lie in the first half of a row of scores, at or before what is still read.
  static HWY_INLINE Vec store_weights(Vec weights, float* row, int64_t c) {
    return round_to_bf16(weights, reinterpret_cast<Bf16*>(row) + c);
  }

 private:
  static HWY_INLINE void put_pair(Bf16 first, Bf16 second, float* to) {
    const uint32_t word = static_cast<uint32_t>(second.bits) << 16 | first.bits;
    std::memcpy(to, &word, sizeof(word));
  }
};

#endif  // FASTWAN_BF16_PAIRS

}  // namespace
}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
