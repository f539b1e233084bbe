#include "models/wan_vae/pixels.h"

#include <ATen/ops/constant_pad_nd.h>

namespace fastwan::models::wan_vae {

at::Tensor patchify(const at::Tensor& video, int64_t patch) {
  const int64_t B = video.size(0), c = video.size(1), F = video.size(2);
  const int64_t H = video.size(3) / patch, W = video.size(4) / patch;
  return video.reshape({B, c, F, H, patch, W, patch})
      .permute({0, 2, 3, 5, 1, 6, 4})  // [B, F, H, W, c, w, h]
      .reshape({B, F, H, W, c * patch * patch});
}

at::Tensor unpatchify(const at::Tensor& x, int64_t patch) {
  const int64_t B = x.size(0), F = x.size(1), H = x.size(2), W = x.size(3);
  const int64_t c = x.size(4) / (patch * patch);
  return x.reshape({B, F, H, W, c, patch, patch})
      .permute({0, 4, 1, 2, 6, 3, 5})  // [B, c, F, H, h, W, w]
      .reshape({B, c, F, H * patch, W * patch})
      .contiguous();
}

at::Tensor avg_down(const at::Tensor& x, int64_t channels, const Factor& factor) {
  const auto& [t, s] = factor;
  const int64_t pad = (t - x.size(1) % t) % t;
  const at::Tensor whole =
      pad == 0 ? x : at::constant_pad_nd(x, {0, 0, 0, 0, 0, 0, pad, 0});  // [B, T, H, W, C]
  const int64_t B = x.size(0), T = whole.size(1) / t, H = x.size(2) / s, W = x.size(3) / s;
  const int64_t C = x.size(4);
  return whole.view({B, T, t, H, s, W, s, C})
      .permute({0, 1, 3, 5, 7, 2, 4, 6})  // [B, T, H, W, C, t, h, w]
      .reshape({B, T, H, W, channels, C * t * s * s / channels})
      .mean(-1);
}

at::Tensor dup_up(const at::Tensor& x, int64_t channels, const Factor& factor) {
  const auto& [t, s] = factor;
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2), W = x.size(3), C = x.size(4);
  const int64_t repeats = channels * t * s * s / C;
  return x.unsqueeze(-1)
      .expand({B, T, H, W, C, repeats})
      .reshape({B, T, H, W, channels, t, s, s})
      .permute({0, 1, 5, 2, 6, 3, 7, 4})  // [B, T, t, H, h, W, w, channels]
      .reshape({B, T * t, H * s, W * s, channels});
}

}  // namespace fastwan::models::wan_vae
