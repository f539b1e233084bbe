// Spatial tiles that overlap, blended over the overlap.
//
// Source  diffusers autoencoder_kl_wan.py, tiled_encode and tiled_decode: each tile is blended with
//         the one above, then with the one to its left, both already blended, then cut to the
//         stride
#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

namespace fastwan::models::wan_vae {

struct Side {
  int64_t height, width;
};

struct TileGrid {
  Side in;        // whole input
  Side tile;      // of the input; those at the end may be smaller
  Side stride;    // of the input
  Side out_tile;  // the same of the output
  Side out_stride;
  Side out;
};

// x [B, T, H, W, C]; run: a tile of x to [B, F, h, w, c] -> [B, F, out.height, out.width, c].
at::Tensor run_tiled(const at::Tensor& x,
                     const TileGrid& grid,
                     const std::function<at::Tensor(const at::Tensor& tile)>& run);

}  // namespace fastwan::models::wan_vae
