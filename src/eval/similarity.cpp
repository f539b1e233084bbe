#include "eval/similarity.h"

#include <array>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>

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

// x [3, P, Q] under the window, along rows, then along columns; no padding. Sums of shifted
// pictures: torch's convolution of fp64 copies a picture eleven times over, seconds for a frame of
// 1080p.
at::Tensor blur(const at::Tensor& x, const std::array<double, kWindow>& window) {
  const auto along = [&window](const at::Tensor& from, int64_t dim) {
    const int64_t fits = from.size(dim) - kWindow + 1;
    at::Tensor sum = from.narrow(dim, 0, fits) * window[0];
    for (int64_t shift = 1; shift < kWindow; ++shift) {
      sum.add_(from.narrow(dim, shift, fits), window[static_cast<std::size_t>(shift)]);
    }
    return sum;
  };
  return along(along(x, 1), 2);  // [3, P-10, Q-10]
}

// Weights that fall off from the middle; their sum is 1.
std::array<double, kWindow> gaussian_window() {
  std::array<double, kWindow> window{};
  double sum = 0;
  for (std::size_t i = 0; i < window.size(); ++i) {
    const double x = static_cast<double>(i) - (kWindow - 1) / 2;
    window[i] = std::exp(x * x / (-2 * kSigma * kSigma));
    sum += window[i];
  }
  for (double& weight : window) {
    weight /= sum;
  }
  return window;
}

// Frame by frame: in fp64 a whole video is many times as large as what it was read into.
template <class Measure>
double mean_over_frames(const at::Tensor& video,
                        const at::Tensor& reference,
                        const Measure& measure) {
  double sum = 0;
  for (int64_t frame = 0; frame < video.size(0); ++frame) {
    sum += measure(video[frame].to(at::kDouble), reference[frame].to(at::kDouble));
  }
  return sum / static_cast<double>(video.size(0));
}

}  // namespace

double mse(const at::Tensor& video, const at::Tensor& reference) {
  check("mse", video, reference);
  return mean_over_frames(video, reference, [](const at::Tensor& a, const at::Tensor& b) {
    return (a - b).square().mean().item<double>();
  });
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
  const std::array<double, kWindow> window = gaussian_window();
  return mean_over_frames(
      video, reference, [&window](const at::Tensor& a, const at::Tensor& b) {  // [3, P, Q]
        const at::Tensor mean_a = blur(a, window), mean_b = blur(b, window);
        const at::Tensor var_a = blur(a * a, window) - mean_a * mean_a;
        const at::Tensor var_b = blur(b * b, window) - mean_b * mean_b;
        const at::Tensor cov = blur(a * b, window) - mean_a * mean_b;
        const at::Tensor map = (2 * mean_a * mean_b + kC1) * (2 * cov + kC2) /
                               ((mean_a.square() + mean_b.square() + kC1) * (var_a + var_b + kC2));
        return map.mean().item<double>();
      });
}

}  // namespace fastwan::eval
