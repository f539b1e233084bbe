#include "models/wan_vae/blocks.h"

#include <algorithm>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>

namespace fastwan::models::wan_vae {
namespace {

// Memory for the history of a slot and a chunk of T frames like x; the history is filled in.
// A chunk of one frame leaves absent history out (the convolution drops those taps), a longer one
// holds zeros in its place.
at::Tensor begin_frames(const at::Tensor& slot, const at::Tensor& x, int64_t T) {
  const int64_t stored = slot.defined() ? slot.size(1) : 0;
  const int64_t history = T == 1 ? stored : kHistory;
  at::Tensor frames =
      at::empty({x.size(0), history + T, x.size(2), x.size(3), x.size(4)}, x.options());
  frames.narrow(1, 0, history - stored).zero_();
  if (stored > 0) {
    frames.narrow(1, history - stored, stored).copy_(slot);
  }
  return frames;
}

// The same frames as one new tensor, through which a gradient reaches x and the history.
at::Tensor joined_frames(const at::Tensor& slot, const at::Tensor& x, int64_t T) {
  std::vector<at::Tensor> parts;
  const int64_t stored = slot.defined() ? slot.size(1) : 0;
  if (T > 1 && stored < kHistory) {
    parts.push_back(
        at::zeros({x.size(0), kHistory - stored, x.size(2), x.size(3), x.size(4)}, x.options()));
  }
  if (stored > 0) {
    parts.push_back(slot);
  }
  parts.push_back(x);
  return at::cat(parts, 1);
}

// What a slot holds after a chunk x.
at::Tensor renewed(const at::Tensor& slot, const at::Tensor& x) {
  const int64_t T = x.size(1);
  if (T >= kHistory) {
    return T == kHistory ? x : x.narrow(1, T - kHistory, kHistory).clone();
  }
  return slot.defined() ? at::cat({slot.narrow(1, slot.size(1) - 1, 1), x}, 1) : x;
}

// The convolution of a dense chunk x, plus a residual (or undefined).
at::Tensor convolve_fast(const CausalConv& conv,
                         const at::Tensor& x,
                         at::Tensor& slot,
                         const at::Tensor& residual = {}) {
  at::Tensor out = conv.after(slot, x, residual);
  slot = renewed(slot, x);
  return out;
}

at::Tensor convolve_frames(const CausalConv& conv,
                           const at::Tensor& frames,
                           int64_t T,
                           at::Tensor& slot) {
  const int64_t kept = std::min(kHistory, frames.size(1));
  slot = frames.narrow(1, frames.size(1) - kept, kept);
  if (!at::GradMode::is_enabled()) {
    slot = slot.clone();  // or it would keep all frames alive; a graph keeps them anyway
  }
  return conv(frames, T);
}

}  // namespace

at::Tensor convolve(const CausalConv& conv, const at::Tensor& x, at::Tensor& slot) {
  if (conv.is_fast(x)) {
    return convolve_fast(conv, x.contiguous(), slot);
  }
  const int64_t T = x.size(1);
  if (at::GradMode::is_enabled()) {
    return convolve_frames(conv, joined_frames(slot, x, T), T, slot);
  }
  const at::Tensor frames = begin_frames(slot, x, T);
  frames.narrow(1, frames.size(1) - T, T).copy_(x);
  return convolve_frames(conv, frames, T, slot);
}

at::Tensor convolve_normed(const RmsNorm& norm,
                           const CausalConv& conv,
                           const at::Tensor& x,
                           at::Tensor& slot) {
  if (conv.is_fast(x)) {
    return convolve_fast(conv, norm.then_silu(x), slot);
  }
  const int64_t T = x.size(1);
  if (at::GradMode::is_enabled()) {
    return convolve_frames(conv, joined_frames(slot, norm.then_silu(x), T), T, slot);
  }
  const at::Tensor frames = begin_frames(slot, x, T);
  at::Tensor chunk = frames.narrow(1, frames.size(1) - T, T);
  norm.then_silu_into(chunk, x);
  return convolve_frames(conv, frames, T, slot);
}

ResidualBlock ResidualBlock::make(const Scope& scope, int64_t in, int64_t out) {
  ResidualBlock block{.norm1 = RmsNorm::make(scope.in("norm1"), in, 4),
                      .norm2 = RmsNorm::make(scope.in("norm2"), out, 4),
                      .conv1 = CausalConv::make(scope.in("conv1"), in, out),
                      .conv2 = CausalConv::make(scope.in("conv2"), out, out)};
  if (in != out) {
    block.shortcut = PointwiseConv::make(scope.in("conv_shortcut"), in, out, 5);
  }
  return block;
}

at::Tensor ResidualBlock::operator()(const at::Tensor& x, FeatureCache& cache) const {
  at::Tensor h = convolve_normed(norm1, conv1, x, cache.slot());
  const at::Tensor residual = shortcut ? (*shortcut)(x) : x;
  if (conv2.is_fast(h)) {
    norm2.then_silu_(h);
    return convolve_fast(conv2, h, cache.slot(), residual);
  }
  h = convolve_normed(norm2, conv2, h, cache.slot());
  return h.add_(residual);
}

FrameAttention FrameAttention::make(const Scope& scope, int64_t width) {
  return {.norm = RmsNorm::make(scope.in("norm"), width, 3),
          .to_qkv = PointwiseConv::make(scope.in("to_qkv"), width, 3 * width, 4),
          .proj = PointwiseConv::make(scope.in("proj"), width, width, 4)};
}

at::Tensor FrameAttention::operator()(const at::Tensor& x) const {
  const at::Tensor pixels = norm(x).flatten(2, 3).flatten(0, 1);  // [B*T, H*W, C]
  const auto qkv = to_qkv(pixels).unsqueeze(1).chunk(3, -1);      // 3 x [B*T, 1, H*W, C]
  const at::Tensor seen =
      at::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).squeeze(1);  // [B*T, H*W, C]
  return proj(seen).view_as(x).add_(x);
}

MidBlock MidBlock::make(const Scope& scope, int64_t width) {
  return {.before = ResidualBlock::make(scope.in("resnets.0"), width, width),
          .after = ResidualBlock::make(scope.in("resnets.1"), width, width),
          .attention = FrameAttention::make(scope.in("attentions.0"), width)};
}

at::Tensor MidBlock::operator()(const at::Tensor& x, FeatureCache& cache) const {
  return after(attention(before(x, cache)), cache);
}

Upsample Upsample::make(const Scope& scope, const Widths& widths, bool temporal) {
  Upsample up{.resample = FrameConv::make(scope.in("resample.1"), widths.in, widths.out)};
  if (temporal) {
    up.time_conv =
        CausalConv::make(scope.in("time_conv"), widths.in, 2 * widths.in, {.t = 3, .h = 1, .w = 1});
  }
  return up;
}

at::Tensor Upsample::operator()(const at::Tensor& x, FeatureCache& cache) const {
  if (!time_conv) {
    return resample.upsampled(x);
  }
  const int64_t B = x.size(0), H = x.size(2), W = x.size(3), C = x.size(4);
  at::Tensor& slot = cache.slot();
  // The video's first frame stays one and is not remembered: the second sees zeros before.
  const int64_t kept = cache.is_first_chunk() ? 1 : 0, T = x.size(1) - kept;
  std::vector<at::Tensor> frames;
  if (kept > 0) {
    frames.push_back(x.narrow(1, 0, kept));
  }
  if (T > 0) {
    frames.push_back(convolve(*time_conv, x.narrow(1, kept, T), slot)
                         .view({B, T, H, W, 2, C})
                         .permute({0, 1, 4, 2, 3, 5})  // [B, T, 2, H, W, C]: even, odd frame
                         .reshape({B, 2 * T, H, W, C}));
  }
  return resample.upsampled(frames.size() == 1 ? frames[0] : at::cat(frames, 1));
}

Downsample Downsample::make(const Scope& scope, int64_t width, bool temporal) {
  Downsample down{.resample = FrameConv::make(scope.in("resample.1"), width, width)};
  if (temporal) {
    down.time_conv =
        CausalConv::make(scope.in("time_conv"), width, width, {.t = 3, .h = 1, .w = 1});
  }
  return down;
}

at::Tensor Downsample::operator()(const at::Tensor& x, FeatureCache& cache) const {
  const at::Tensor smaller = resample.strided(x);  // [B, T, H/2, W/2, C]
  if (!time_conv) {
    return smaller;
  }
  at::Tensor& slot = cache.slot();
  const at::Tensor before = slot;
  slot = smaller.narrow(1, smaller.size(1) - 1, 1).clone();
  if (before.defined()) {
    return time_conv->strided(at::cat({before, smaller}, 1));  // [B, T/2, H/2, W/2, C]
  }
  if (smaller.size(1) == 1) {  // the video's first frame stays one
    return smaller;
  }
  return at::cat({smaller.narrow(1, 0, 1), time_conv->strided(smaller)}, 1);  // [B, 1 + T/2, ...]
}

}  // namespace fastwan::models::wan_vae
