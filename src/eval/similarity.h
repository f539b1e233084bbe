// How alike two videos are, frame by frame.
//
// Dims    F frames, P height, Q width in pixels; both videos [F, 3, P, Q] in [0, 1], any device
// Errors  InvalidInput bad_tensor: shapes differ
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::eval {

double mse(const at::Tensor& video, const at::Tensor& reference);  // over all elements
// 10 log10(1 / mse) in dB of the whole clip; infinity for equal videos.
double psnr(const at::Tensor& video, const at::Tensor& reference);

// Structural similarity (Wang et al. 2004): Gaussian window 11 x 11 of sigma 1.5, K1 = .01,
// K2 = .03, range 1, covariances divided by n; each channel of each frame by itself, mean over the
// places where the window fits and over everything else. Sides of 11 or more.
double ssim(const at::Tensor& video, const at::Tensor& reference);

}  // namespace fastwan::eval
