#include <algorithm>

#include "kernels/ordered_matmul/ordered_matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ordered_matmul/ordered_matmul_cpu.cpp"  // once per target
#include <hwy/foreach_target.h>                                             // before highway.h
#include <hwy/highway.h>

#include "kernels/common/simd/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastwan::kernels::HWY_NAMESPACE {

int64_t width_of_panels() {
  return panel_width();
}

// Columns from `first` on of one right matrix, zero behind its last one.
HWY_INLINE void pack_panel(
    const Matrices& b, const float* from, const MatmulDims& d, int64_t first, float* panel) {
  const int64_t width = panel_width(), columns = std::min(width, d.N - first);
  for (int64_t i = 0; i < d.K; ++i, panel += width) {
    const float* row = from + i * b.row + first * b.column;
    for (int64_t n = 0; n < columns; ++n) {
      panel[n] = row[n * b.column];
    }
    std::fill(panel + columns, panel + width, 0.0F);
  }
}

void multiply_pieces(const OrderedMatmulArgs& args, float* scratch, Range pieces) {
  const hn::ScalableTag<float> f32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f32));
  const MatmulDims& d = args.dims;
  const int64_t width = panel_width(), panels = (d.N + width - 1) / width;
  float* last = scratch + d.K * width;  // two vectors of a row that end behind the matrix
  for (int64_t piece = pieces.begin; piece < pieces.end; ++piece) {
    const int64_t g = piece / panels, first = piece % panels * width;
    pack_panel(args.b, args.b.data + g * args.b.matrix, d, first, scratch);
    float* out = args.out + g * d.M * d.N + first;
    const int64_t columns = std::min(width, d.N - first);
    multiply_panel(f32,
                   {.a = args.a.data + g * args.a.matrix,
                    .a_row = args.a.row,
                    .a_depth = args.a.column,
                    .b = scratch,
                    .depth = d.K},
                   d.M, [&](int64_t m, auto left, auto right) HWY_ATTR {
                     float* to = columns == width ? out + m * d.N : last;
                     hn::StoreU(left, f32, to);
                     hn::StoreU(right, f32, to + lanes);
                     if (columns < width) {
                       std::copy(last, last + columns, out + m * d.N);
                     }
                   });
  }
}

}  // namespace fastwan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastwan::kernels {
HWY_EXPORT(width_of_panels);
HWY_EXPORT(multiply_pieces);

int64_t cpu::ordered_matmul_panels(const MatmulDims& dims) {
  const int64_t width = HWY_DYNAMIC_DISPATCH(width_of_panels)();
  return (dims.N + width - 1) / width;
}

int64_t cpu::ordered_matmul_scratch(const MatmulDims& dims) {
  return (dims.K + 1) * HWY_DYNAMIC_DISPATCH(width_of_panels)();
}

void cpu::ordered_matmul(const OrderedMatmulArgs& args, float* scratch, Range pieces) {
  HWY_DYNAMIC_DISPATCH(multiply_pieces)(args, scratch, pieces);
}
}  // namespace fastwan::kernels
#endif
