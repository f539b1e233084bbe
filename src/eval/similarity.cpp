#include "eval/similarity.h"

#include <cmath>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/conv2d.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"

namespace fastwan::eval {
namespace {

constexpr int64_t kWindow = 11;
constexpr double kSigma = 1.5;
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;

Shapes check(const char* where, const at::Tensor& video, const at::Tensor& reference) {
  Shapes shapes(where);
  shapes.expect("video", video.sizes(), "F 3 P Q");
  shapes.expect("reference", reference.sizes(), "F 3 P Q");
  return shapes;
}

// x [N, 1, P, Q] under the window, along rows, then along columns; no padding.
at::Tensor blur(const at::Tensor& x, const at::Tensor& window) {
  const at::Tensor down = at::conv2d(x, window.view({1, 1, kWindow, 1}));
  return at::conv2d(down, window.view({1, 1, 1, kWindow}));  // [N, 1, P-10, Q-10]
}

}  // namespace

double mse(const at::Tensor& video, const at::Tensor& reference) {
  check("mse", video, reference);
  return (video.to(at::kDouble) - reference.to(at::kDouble)).square().mean().item<double>();
}

double psnr(const at::Tensor& video, const at::Tensor& reference) {
  const double error = mse(video, reference);
  return error == 0 ? std::numeric_limits<double>::infinity() : -10 * std::log10(error);
}

double ssim(const at::Tensor& video, const at::Tensor& reference) {
  const Shapes shapes = check("ssim", video, reference);
  if (shapes["P"] < kWindow || shapes["Q"] < kWindow) {
    throw InvalidInput(Code::kBadTensor,
                       str("ssim needs sides of ", kWindow, " pixels or more, got ", shapes["P"],
                           " x ", shapes["Q"]));
  }
  const at::Tensor x = at::arange(kWindow, at::TensorOptions(at::kDouble).device(video.device())) -
                       (kWindow - 1) / 2;
  at::Tensor window = (x.square() / (-2 * kSigma * kSigma)).exp();
  window = window / window.sum();
  const at::Tensor a = video.to(at::kDouble).flatten(0, 1).unsqueeze(1);      // [F*3, 1, P, Q]
  const at::Tensor b = reference.to(at::kDouble).flatten(0, 1).unsqueeze(1);  // [F*3, 1, P, Q]
  const at::Tensor mean_a = blur(a, window), mean_b = blur(b, window);
  const at::Tensor var_a = blur(a * a, window) - mean_a * mean_a;
  const at::Tensor var_b = blur(b * b, window) - mean_b * mean_b;
  const at::Tensor cov = blur(a * b, window) - mean_a * mean_b;
  const at::Tensor map = (2 * mean_a * mean_b + kC1) * (2 * cov + kC2) /
                         ((mean_a.square() + mean_b.square() + kC1) * (var_a + var_b + kC2));
  return map.mean().item<double>();
}

}  // namespace fastwan::eval
