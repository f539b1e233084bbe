// Schedule  a piece is a block of tiles of 4x4 output pixels: their 6x6 inputs are transformed,
// each
//           of the 36 positions is a matrix product over taps and channels, the sums are
//           transformed back. Inputs and sums of a block stay in the caches; the frames of a tile
//           lie side by side, so the taps of an output frame are one row of its product
// Order     a sum runs over taps, then channels, in runs of kRun that are summed apart, whatever
// the
//           block: the bits do not depend on it
#include <algorithm>

#include "kernels/frame_conv/frame_conv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/frame_conv/frame_conv_cpu.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr int64_t kOut = 4;        // pixels of a side of an output tile
constexpr int64_t kIn = 6;         // and of its input
constexpr int64_t kSpots = 36;     // products of a tile
constexpr int64_t kMaxTiles = 24;  // of a block: see docs/kernels/frame_conv.md
constexpr int64_t kLeastBlocks = 8;
// Products summed in a row before they join the rest: rounding grows with the root of it. Shorter
// ones cost loads and stores of sums.
constexpr int64_t kRun = 96;
constexpr int64_t kPad = 16;  // floats between rows, so that their lines differ in cache sets

// The points of the interpolation are 0, +-a, +-b and infinity.
constexpr float kA = 0.625F, kB = 1.5F;
constexpr float kA2 = kA * kA, kB2 = kB * kB;
constexpr float kSum = kA2 + kB2, kProduct = kA2 * kB2;  // all exact

using F32 = hn::ScalableTag<float>;

struct Sizes {
  int64_t T, P, Q;                       // output
  int64_t tiles_x, tiles;                // of a frame
  int64_t block;                         // tiles of a block
  int64_t panels, width;                 // of the output channels
  int64_t depth;                         // D * C
  int64_t in_row, in_spot;               // strides of transformed inputs [spot][tile][F * C]
  int64_t sum_row, sum_frame, sum_spot;  // and of sums [spot][T][tile][panels * width]
};

Sizes sizes_of(const FrameConvDims& d) {
  Sizes s{.T = d.F - d.D + 1, .P = d.U * d.H, .Q = d.U * d.W};
  s.tiles_x = (s.Q + kOut - 1) / kOut;
  s.tiles = s.tiles_x * ((s.P + kOut - 1) / kOut);
  const int64_t share = (s.tiles + kLeastBlocks - 1) / kLeastBlocks;
  s.block = std::min(kMaxTiles, (share + kGemmRows - 1) / kGemmRows * kGemmRows);
  s.width = panel_width();
  s.panels = (d.N + s.width - 1) / s.width;
  s.depth = d.D * d.C;
  s.in_row = (d.F * d.C + kPad - 1) / kPad * kPad + kPad;
  s.in_spot = s.block * s.in_row + kPad;
  s.sum_row = s.panels * s.width;
  s.sum_frame = s.block * s.sum_row;
  s.sum_spot = s.T * s.sum_frame + kPad;
  return s;
}

cpu::FrameConvPlan plan(const FrameConvDims& d) {
  const Sizes s = sizes_of(d);
  const int64_t zeros = (d.C + kPad - 1) / kPad * kPad;
  return {.transformed_floats = kSpots * s.panels * s.depth * s.width,
          .weight_pieces = s.panels,
          .scratch_floats = zeros + kSpots * (s.in_spot + s.sum_spot),
          .blocks = (s.tiles + s.block - 1) / s.block};
}

// --- transforms of one side: 3 weights to 6, 6 inputs to 6, 6 sums to 4. Handed out by index,
// because vectors of some targets cannot lie in arrays.

template <class Tag, class Get, class Put>
HWY_INLINE void weights_side(Tag tag, const Get& get, const Put& put) {
  const auto g0 = get(0), g1 = get(1), g2 = get(2);
  put(0, hn::Mul(g0, hn::Set(tag, 1.0F / kProduct)));
  const auto pair = [&](int64_t spot, float point, float square, float other) HWY_ATTR {
    const float scale = 1.0F / (2.0F * square * (square - other));
    const auto even = hn::Mul(hn::MulAdd(g2, hn::Set(tag, square), g0), hn::Set(tag, scale));
    const auto odd = hn::Mul(g1, hn::Set(tag, point * scale));
    put(spot, hn::Add(even, odd));
    put(spot + 1, hn::Sub(even, odd));
  };
  pair(1, kA, kA2, kB2);
  pair(3, kB, kB2, kA2);
  put(5, g2);
}

template <class Tag, class Get, class Put>
HWY_INLINE void inputs_side(Tag tag, const Get& get, const Put& put) {
  const auto d0 = get(0), d1 = get(1), d2 = get(2), d3 = get(3), d4 = get(4), d5 = get(5);
  const auto sum = hn::Set(tag, kSum), product = hn::Set(tag, kProduct);
  put(0, hn::MulAdd(product, d0, hn::NegMulAdd(sum, d2, d4)));
  const auto pair = [&](int64_t spot, float point, float other) HWY_ATTR {
    const auto even = hn::NegMulAdd(hn::Set(tag, other), d2, d4);
    const auto odd = hn::NegMulAdd(hn::Set(tag, other), d1, d3);
    put(spot, hn::MulAdd(hn::Set(tag, point), odd, even));
    put(spot + 1, hn::NegMulAdd(hn::Set(tag, point), odd, even));
  };
  pair(1, kA, kB2);
  pair(3, kB, kA2);
  put(5, hn::MulAdd(product, d1, hn::NegMulAdd(sum, d3, d5)));
}

template <class Tag, class Get, class Put>
HWY_INLINE void sums_side(Tag tag, const Get& get, const Put& put) {
  const auto m1 = get(1), m2 = get(2), m3 = get(3), m4 = get(4);
  const auto even_a = hn::Add(m1, m2), odd_a = hn::Sub(m1, m2);
  const auto even_b = hn::Add(m3, m4), odd_b = hn::Sub(m3, m4);
  const auto a = hn::Set(tag, kA), b = hn::Set(tag, kB);
  const auto a2 = hn::Set(tag, kA2), b2 = hn::Set(tag, kB2);
  put(0, hn::Add(get(0), hn::Add(even_a, even_b)));
  put(1, hn::MulAdd(a, odd_a, hn::Mul(b, odd_b)));
  put(2, hn::MulAdd(a2, even_a, hn::Mul(b2, even_b)));
  put(3, hn::MulAdd(hn::Mul(a, a2), odd_a, hn::MulAdd(hn::Mul(b, b2), odd_b, get(5))));
}

// --- weights: [spot][panel][D * C][width]

void transform_panels(const FrameConvArgs<float>& args, float* to, Range panels) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const FrameConvDims& dims = args.dims;
  const Sizes s = sizes_of(dims);
  constexpr int64_t kColumns = 2 * static_cast<int64_t>(HWY_MAX_BYTES) / 4;
  HWY_ALIGN float taps[9 * kColumns];   // [3][3][width] of one channel and time
  HWY_ALIGN float half[18 * kColumns];  // [6][3][width]
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const int64_t columns = std::min(s.width, dims.N - panel * s.width);
    for (int64_t dc = 0; dc < s.depth; ++dc) {
      const int64_t d = dc / dims.C, c = dc % dims.C;
      const float* from = args.weight + panel * s.width * args.weight_n + c * args.weight_c + 9 * d;
      for (int64_t j = 0; j < s.width; ++j) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          taps[tap * s.width + j] = j < columns ? from[j * args.weight_n + tap] : 0.0F;
        }
      }
      for (int64_t j = 0; j < s.width; j += lanes) {
        for (int64_t w = 0; w < 3; ++w) {
          weights_side(
              f32,
              [&](int64_t h) HWY_ATTR { return hn::Load(f32, taps + (3 * h + w) * s.width + j); },
              [&](int64_t h, auto x)
                  HWY_ATTR { hn::Store(x, f32, half + (3 * h + w) * s.width + j); });
        }
        for (int64_t h = 0; h < kIn; ++h) {
          weights_side(
              f32,
              [&](int64_t w) HWY_ATTR { return hn::Load(f32, half + (3 * h + w) * s.width + j); },
              [&](int64_t w, auto x) HWY_ATTR {
                const int64_t row = ((kIn * h + w) * s.panels + panel) * s.depth + dc;
                hn::Store(x, f32, to + row * s.width + j);
              });
        }
      }
    }
  }
}

// --- inputs

struct Tile {
  int64_t y, x;  // of its first output pixel
};

// All 36 spots of as many channels as the tag has lanes.
template <class Tag>
HWY_INLINE void transform_pixels(Tag tag, const float* const* pixels, float* to, int64_t spot) {
  constexpr auto kLanes = static_cast<int64_t>(HWY_MAX_BYTES) / 4;
  HWY_ALIGN float half[kSpots * kLanes];
  for (int64_t w = 0; w < kIn; ++w) {
    inputs_side(
        tag, [&](int64_t h) HWY_ATTR { return hn::LoadU(tag, pixels[kIn * h + w]); },
        [&](int64_t h, auto x) HWY_ATTR { hn::StoreU(x, tag, half + (kIn * h + w) * kLanes); });
  }
  for (int64_t h = 0; h < kIn; ++h) {
    inputs_side(
        tag, [&](int64_t w) HWY_ATTR { return hn::LoadU(tag, half + (kIn * h + w) * kLanes); },
        [&](int64_t w, auto x) HWY_ATTR { hn::StoreU(x, tag, to + (kIn * h + w) * spot); });
  }
}

void transform_frame(const FrameConvDims& d,
                     const Sizes& s,
                     const float* frame,
                     const float* zeros,
                     const Tile& tile,
                     float* to) {
  const F32 f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const float* pixels[kSpots];
  for (int64_t spot = 0; spot < kSpots; ++spot) {
    const int64_t y = tile.y + spot / kIn - 1, x = tile.x + spot % kIn - 1;
    const bool is_inside = y >= 0 && y < s.P && x >= 0 && x < s.Q;
    pixels[spot] = is_inside ? frame + (y / d.U * d.W + x / d.U) * d.C : zeros;
  }
  const auto run = [&](auto tag, int64_t count) HWY_ATTR {
    transform_pixels(tag, pixels, to, s.in_spot);
    for (const float*& pixel : pixels) {
      pixel += count;
    }
    to += count;
  };
  int64_t c = 0;
  for (; c + lanes <= d.C; c += lanes) {
    run(f32, lanes);
  }
  for (; c < d.C; ++c) {
    run(one, 1);
  }
}

// --- sums

// 4x4 pixels of as many channels as the tag has lanes, handed to finish(row, column, x).
template <class Tag, class Finish>
HWY_INLINE void finish_pixels(Tag tag, const float* from, int64_t spot, const Finish& finish) {
  constexpr auto kLanes = static_cast<int64_t>(HWY_MAX_BYTES) / 4;
  HWY_ALIGN float half[kOut * kIn * kLanes];
  for (int64_t w = 0; w < kIn; ++w) {
    sums_side(
        tag, [&](int64_t h) HWY_ATTR { return hn::LoadU(tag, from + (kIn * h + w) * spot); },
        [&](int64_t h, auto x) HWY_ATTR { hn::StoreU(x, tag, half + (kIn * h + w) * kLanes); });
  }
  for (int64_t h = 0; h < kOut; ++h) {
    sums_side(
        tag, [&](int64_t w) HWY_ATTR { return hn::LoadU(tag, half + (kIn * h + w) * kLanes); },
        [&](int64_t w, auto x) HWY_ATTR { finish(h, w, x); });
  }
}

void finish_tile(
    const FrameConvArgs<float>& a, const Sizes& s, const float* from, int64_t t, const Tile& tile) {
  const F32 f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const int64_t rows = std::min(kOut, s.P - tile.y), columns = std::min(kOut, s.Q - tile.x);
  const int64_t first = ((t * s.P + tile.y) * s.Q + tile.x) * a.out_pixel;
  const auto run = [&](auto tag, int64_t n) HWY_ATTR {
    const auto bias = hn::LoadU(tag, a.bias + n);
    finish_pixels(tag, from + n, s.sum_spot, [&](int64_t h, int64_t w, auto x) HWY_ATTR {
      if (h >= rows || w >= columns) {
        return;
      }
      const int64_t at = first + (h * s.Q + w) * a.out_pixel + n;
      auto y = hn::Add(x, bias);
      if (a.residual != nullptr) {
        y = hn::Add(y, hn::LoadU(tag, a.residual + at));
      }
      hn::StoreU(y, tag, a.out + at);
    });
  };
  int64_t n = 0;
  for (; n + lanes <= a.dims.N; n += lanes) {
    run(f32, n);
  }
  for (; n < a.dims.N; ++n) {
    run(one, n);
  }
}

// --- products

// sums[spot][t][tile][n] over taps and channels, without leading frames that are null.
void multiply_block(const FrameConvArgs<float>& a,
                    const Sizes& s,
                    const float* inputs,
                    const float* weights,
                    int64_t rows,
                    int64_t absent,
                    float* sums) {
  const F32 f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  for (int64_t spot = 0; spot < kSpots; ++spot) {
    for (int64_t panel = 0; panel < s.panels; ++panel) {
      const float* b = weights + (spot * s.panels + panel) * s.depth * s.width;
      for (int64_t t = 0; t < s.T; ++t) {
        const int64_t skipped = std::clamp<int64_t>(absent - t, 0, a.dims.D) * a.dims.C;
        float* to = sums + spot * s.sum_spot + t * s.sum_frame + panel * s.width;
        for (int64_t k = skipped; k < s.depth; k += kRun) {
          multiply_panel(f32,
                         {.a = inputs + spot * s.in_spot + t * a.dims.C + k,
                          .a_row = s.in_row,
                          .a_depth = 1,
                          .b = b + k * s.width,
                          .depth = std::min(kRun, s.depth - k)},
                         rows, [&](int64_t row, auto left, auto right) HWY_ATTR {
                           float* sum = to + row * s.sum_row;
                           if (k != skipped) {
                             left = hn::Add(left, hn::LoadU(f32, sum));
                             right = hn::Add(right, hn::LoadU(f32, sum + lanes));
                           }
                           hn::StoreU(left, f32, sum);
                           hn::StoreU(right, f32, sum + lanes);
                         });
        }
        if (skipped == s.depth) {  // no frame at all
          for (int64_t row = 0; row < rows; ++row) {
            std::fill_n(to + row * s.sum_row, s.width, 0.0F);
          }
        }
      }
    }
  }
}

void convolve_blocks(const FrameConvArgs<float>& a,
                     const float* weights,
                     float* scratch,
                     Range blocks) {
  const FrameConvDims& d = a.dims;
  const Sizes s = sizes_of(d);
  float* zeros = scratch;
  float* inputs = zeros + (d.C + kPad - 1) / kPad * kPad;
  float* sums = inputs + kSpots * s.in_spot;
  std::fill(zeros, inputs, 0.0F);
  int64_t absent = 0;
  while (absent < d.F && a.frames[absent] == nullptr) {
    ++absent;
  }
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    const int64_t first = block * s.block;
    const int64_t rows = std::min(s.block, s.tiles - first);
    const auto place = [&](int64_t row) {
      const int64_t tile = first + row;
      return Tile{.y = tile / s.tiles_x * kOut, .x = tile % s.tiles_x * kOut};
    };
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t f = absent; f < d.F; ++f) {
        transform_frame(d, s, a.frames[f], zeros, place(row), inputs + row * s.in_row + f * d.C);
      }
    }
    multiply_block(a, s, inputs, weights, rows, absent, sums);
    for (int64_t t = 0; t < s.T; ++t) {
      for (int64_t row = 0; row < rows; ++row) {
        finish_tile(a, s, sums + t * s.sum_frame + row * s.sum_row, t, place(row));
      }
    }
  }
}

}  // namespace

cpu::FrameConvPlan frame_conv_plan(const FrameConvDims& dims) {
  return plan(dims);
}
void frame_conv_weights(const FrameConvArgs<float>& args, float* transformed, Range pieces) {
  transform_panels(args, transformed, pieces);
}
void frame_conv_blocks(const FrameConvArgs<float>& args,
                       const float* transformed,
                       float* scratch,
                       Range blocks) {
  convolve_blocks(args, transformed, scratch, blocks);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(frame_conv_plan);
HWY_EXPORT(frame_conv_weights);
HWY_EXPORT(frame_conv_blocks);

cpu::FrameConvPlan cpu::plan_frame_conv(const FrameConvDims& dims) {
  return HWY_DYNAMIC_DISPATCH(frame_conv_plan)(dims);
}
void cpu::transform_weights(const FrameConvArgs<float>& args, float* transformed, Range pieces) {
  HWY_DYNAMIC_DISPATCH(frame_conv_weights)(args, transformed, pieces);
}
void cpu::frame_conv(const FrameConvArgs<float>& args,
                     const float* transformed,
                     float* scratch,
                     Range blocks) {
  HWY_DYNAMIC_DISPATCH(frame_conv_blocks)(args, transformed, scratch, blocks);
}
}  // namespace fastwan::kernels
#endif
