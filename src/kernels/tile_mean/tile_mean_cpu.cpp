#include "kernels/tile_mean/tile_mean.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/tile_mean/tile_mean_cpu.cpp"  // this file, once per target
#include <hwy/foreach_target.h>                                   // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {

template <class F32, class Element>  // as many columns as F32 has lanes
HWY_INLINE void mean_of_columns(F32 f32, const Element* x, int64_t row, int32_t len, Element* out) {
  auto sum = hn::Zero(f32);
  for (int32_t t = 0; t < len; ++t) {
    sum = hn::Add(sum, load_row(f32, x + t * row));
  }
  store_row(f32, hn::Div(sum, hn::Set(f32, static_cast<float>(len))), out);
}

template <class Element>
void mean_of_tiles(const TileMeanArgs<Element>& a, Range tiles) {
  const hn::ScalableTag<float> f32;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const int64_t row = a.dims.H * a.dims.D;
  for (int64_t bn = tiles.begin; bn < tiles.end; ++bn) {
    const Element* x = a.x + bn * a.dims.T * row;
    const int32_t len = a.len[bn % a.dims.N];
    int64_t c = 0;
    for (; c + lanes <= row; c += lanes) {
      mean_of_columns(f32, x + c, row, len, a.out + bn * row + c);
    }
    for (; c < row; ++c) {
      mean_of_columns(one, x + c, row, len, a.out + bn * row + c);
    }
  }
}

void tile_mean_float(const TileMeanArgs<float>& args, Range tiles) {
  mean_of_tiles(args, tiles);
}
void tile_mean_bf16(const TileMeanArgs<Bf16>& args, Range tiles) {
  mean_of_tiles(args, tiles);
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(tile_mean_float);
HWY_EXPORT(tile_mean_bf16);

void cpu::tile_mean(const TileMeanArgs<float>& args, Range tiles) {
  HWY_DYNAMIC_DISPATCH(tile_mean_float)(args, tiles);
}
void cpu::tile_mean(const TileMeanArgs<Bf16>& args, Range tiles) {
  HWY_DYNAMIC_DISPATCH(tile_mean_bf16)(args, tiles);
}
}  // namespace fastwan::kernels
#endif
