#include "models/wan_vae/tiling.h"

#include <algorithm>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

namespace fastwan::models::wan_vae {
namespace {

constexpr int64_t kHeight = 2, kWidth = 3;  // dimensions of [B, F, H, W, C]

// The first n rows (or columns) of `tile` become before * (1 - i/n) + tile * i/n, where `before` is
// the end of its neighbour.
void blend(const at::Tensor& before, const at::Tensor& tile, int64_t dim, int64_t overlap) {
  const int64_t n = std::min({before.size(dim), tile.size(dim), overlap});
  std::vector<int64_t> along(static_cast<std::size_t>(tile.dim()), 1);
  along[static_cast<std::size_t>(dim)] = n;
  const at::Tensor share =  // [n, 1, ...]
      (at::arange(n, at::TensorOptions(at::kDouble).device(tile.device())) / n).view(along);
  const at::Tensor start = tile.narrow(dim, 0, n);
  const at::Tensor end = before.narrow(dim, before.size(dim) - n, n);
  // The weights are not rounded to bf16; products and sum are.
  const auto type = tile.scalar_type();
  start.copy_((end * (1 - share).to(at::kFloat)).to(type) +
              (start * share.to(at::kFloat)).to(type));
}

}  // namespace

at::Tensor run_tiled(const at::Tensor& x,
                     const TileGrid& grid,
                     const std::function<at::Tensor(const at::Tensor& tile)>& run) {
  at::Tensor out;  // [B, F, out.height, out.width, c]
  std::vector<at::Tensor> above;
  for (int64_t i = 0; i * grid.stride.height < grid.in.height; ++i) {
    const int64_t row = i * grid.stride.height, out_row = i * grid.out_stride.height;
    const at::Tensor band =
        x.narrow(kHeight, row, std::min(grid.tile.height, grid.in.height - row));
    std::vector<at::Tensor> here;
    for (int64_t j = 0; j * grid.stride.width < grid.in.width; ++j) {
      const int64_t column = j * grid.stride.width, out_column = j * grid.out_stride.width;
      const at::Tensor tile =
          run(band.narrow(kWidth, column, std::min(grid.tile.width, grid.in.width - column)));
      if (i > 0) {
        blend(above[static_cast<std::size_t>(j)], tile, kHeight,
              grid.out_tile.height - grid.out_stride.height);
      }
      if (j > 0) {
        blend(here.back(), tile, kWidth, grid.out_tile.width - grid.out_stride.width);
      }
      if (!out.defined()) {
        out = at::empty({tile.size(0), tile.size(1), grid.out.height, grid.out.width, tile.size(4)},
                        tile.options());
      }
      const int64_t height =
          std::min({grid.out_stride.height, tile.size(kHeight), grid.out.height - out_row});
      const int64_t width =
          std::min({grid.out_stride.width, tile.size(kWidth), grid.out.width - out_column});
      out.narrow(kHeight, out_row, height)
          .narrow(kWidth, out_column, width)
          .copy_(tile.narrow(kHeight, 0, height).narrow(kWidth, 0, width));
      here.push_back(tile);
    }
    above = std::move(here);
  }
  return out;
}

}  // namespace fastwan::models::wan_vae
