#include "models/wan_vae/layers.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>

#include "ops/frame_conv.h"
#include "ops/norm_silu.h"

namespace fastwan::models::wan_vae {
namespace {

constexpr double kSmallestLength = 1e-12;
// Pixels of a chunk from which on ops::frame_conv is faster than a direct convolution.
constexpr int64_t kLeastPixels = 256;

// Channels last in memory is channels innermost in the sizes: views both ways.
at::Tensor channels_second(const at::Tensor& x) {
  return x.movedim(-1, 1);
}
at::Tensor channels_innermost(const at::Tensor& x) {
  return x.movedim(1, -1).contiguous();
}

// Norms of narrow types are summed in float32.
bool is_narrow(const at::Tensor& x) {
  return x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble;
}

}  // namespace

Scope Scope::in(const std::string& word) const {
  return {.root = root, .name = name.empty() ? word : name + "." + word, .options = options};
}

at::Tensor Scope::parameter(const std::string& word, at::IntArrayRef shape) const {
  return add_parameter(root, in(word).name, shape, options);
}

PointwiseConv PointwiseConv::make(const Scope& scope, int64_t in, int64_t out, int64_t rank) {
  std::vector<int64_t> shape(static_cast<std::size_t>(rank), 1);
  shape[0] = out;
  shape[1] = in;
  return {.weight = scope.parameter("weight", shape), .bias = scope.parameter("bias", {out})};
}

at::Tensor PointwiseConv::operator()(const at::Tensor& x) const {
  return at::linear(x, weight.flatten(1), bias);
}

CausalConv CausalConv::make(const Scope& scope, int64_t in, int64_t out, const Kernel& kernel) {
  return {.weight = scope.parameter("weight", {out, in, kernel.t, kernel.h, kernel.w}),
          .bias = scope.parameter("bias", {out})};
}

at::Tensor CausalConv::operator()(const at::Tensor& frames, int64_t T) const {
  // Products with absent frames are left out: a first frame costs a third.
  const int64_t taps = frames.size(1) - T + 1;
  const at::Tensor kernel = weight.narrow(2, weight.size(2) - taps, taps);
  const std::vector<int64_t> padding = {0, weight.size(3) / 2, weight.size(4) / 2};
  return channels_innermost(at::conv3d(channels_second(frames), kernel, bias, 1, padding));
}

bool CausalConv::is_fast(const at::Tensor& x) const {
  const int64_t pixels = x.size(1) * x.size(2) * x.size(3);
  return weight.size(3) == 3 && weight.size(4) == 3 && pixels >= kLeastPixels &&
         ops::has_frame_conv(x, weight);
}

at::Tensor CausalConv::after(const at::Tensor& history,
                             const at::Tensor& x,
                             const at::Tensor& residual) const {
  return ops::frame_conv(
      {.history = history, .x = x, .weight = weight, .bias = bias, .residual = residual});
}

at::Tensor CausalConv::strided(const at::Tensor& frames) const {
  const std::vector<int64_t> stride = {2, 1, 1};
  return channels_innermost(at::conv3d(channels_second(frames), weight, bias, stride));
}

FrameConv FrameConv::make(const Scope& scope, int64_t in, int64_t out) {
  return {.weight = scope.parameter("weight", {out, in, 3, 3}),
          .bias = scope.parameter("bias", {out})};
}

at::Tensor FrameConv::upsampled(const at::Tensor& x) const {
  if (4 * x.size(1) * x.size(2) * x.size(3) >= kLeastPixels && ops::has_frame_conv(x, weight)) {
    return ops::frame_conv({.x = x, .weight = weight.unsqueeze(2), .bias = bias, .upsample = 2});
  }
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2), W = x.size(3), C = x.size(4);
  return (*this)(
      x.unsqueeze(4).unsqueeze(3).expand({B, T, H, 2, W, 2, C}).reshape({B, T, 2 * H, 2 * W, C}));
}

at::Tensor FrameConv::operator()(const at::Tensor& x) const {
  const at::Tensor images = channels_second(x.flatten(0, 1));  // [B*T, in, H, W]
  return channels_innermost(at::conv2d(images, weight, bias, 1, 1))
      .unflatten(0, {x.size(0), x.size(1)});
}

at::Tensor FrameConv::strided(const at::Tensor& x) const {
  const at::Tensor padded = at::constant_pad_nd(x.flatten(0, 1), {0, 0, 0, 1, 0, 1});
  return channels_innermost(at::conv2d(channels_second(padded), weight, bias, 2))
      .unflatten(0, {x.size(0), x.size(1)});
}

RmsNorm RmsNorm::make(const Scope& scope, int64_t channels, int64_t rank) {
  std::vector<int64_t> shape(static_cast<std::size_t>(rank), 1);
  shape[0] = channels;
  return {.gamma = scope.parameter("gamma", shape)};
}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  if (!at::GradMode::is_enabled()) {
    at::Tensor out = at::empty_like(x);
    into(out, x);
    return out;
  }
  const double root = std::sqrt(static_cast<double>(x.size(-1)));
  const bool narrow = is_narrow(x);
  const at::Tensor wide = narrow ? x.to(at::kFloat) : x;
  const at::Tensor length =
      at::linalg_vector_norm(wide, 2, {-1}, /*keepdim=*/true).clamp_min(kSmallestLength);
  // Operations and roundings of into().
  const at::Tensor normed =
      narrow ? (wide / length).to(x.scalar_type()) * root : x * (root / length);
  return normed * gamma.flatten();
}

void RmsNorm::into(at::Tensor out, const at::Tensor& x) const {
  const double root = std::sqrt(static_cast<double>(x.size(-1)));
  const bool narrow = is_narrow(x);
  const at::Tensor wide = narrow ? x.to(at::kFloat) : x;
  const at::Tensor length =
      at::linalg_vector_norm(wide, 2, {-1}, /*keepdim=*/true).clamp_min_(kSmallestLength);
  if (!narrow) {
    at::mul_out(out, x, root / length);
  } else {
    out.copy_(wide / length);  // diffusers rounds here, after the root and after gamma
    out.mul_(root);
  }
  out.mul_(gamma.flatten());
}

at::Tensor RmsNorm::then_silu(const at::Tensor& x) const {
  return ops::has_norm_silu(x, gamma) ? ops::norm_silu(x, gamma.flatten()) : at::silu((*this)(x));
}

void RmsNorm::then_silu_into(at::Tensor out, const at::Tensor& x) const {
  if (ops::has_norm_silu(x, gamma)) {
    out.copy_(ops::norm_silu(x, gamma.flatten()));
    return;
  }
  into(out, x);
  at::silu_(out);
}

void RmsNorm::then_silu_(at::Tensor& x) const {
  ops::norm_silu_(x, gamma.flatten());
}

}  // namespace fastwan::models::wan_vae
