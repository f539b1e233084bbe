// Rearrangements without weights: patches of pixels, and the two shortcuts of VAE 2.2.
//
// Dims    B batch, F frames, P Q pixel height and width; T H W C as in layers.h
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::models::wan_vae {

// Channel 4c + 2w + h (patch of 2) holds pixel (h, w) of a patch: the column is the slower digit.
at::Tensor patchify(const at::Tensor& video, int64_t patch);  // [B, c, F, P, Q] -> [B, F, H, W, C]
at::Tensor unpatchify(const at::Tensor& x, int64_t patch);    // its inverse

struct Factor {
  int64_t t = 1, s = 1;  // frames; pixels of a side
};

// Means over groups of C * t * s * s / channels consecutive (channel, frame, row, column) values.
// Where T is no multiple of factor.t, zero frames go in front.
at::Tensor avg_down(const at::Tensor& x, int64_t channels, const Factor& factor);
// Each channel repeated channels * t * s * s / C times and dealt out over frames, rows and columns.
at::Tensor dup_up(const at::Tensor& x, int64_t channels, const Factor& factor);

}  // namespace fastwan::models::wan_vae
