// How steady a video is.
//
// Dims  F frames, P height, Q width in pixels
#pragma once

#include <ATen/core/Tensor.h>

namespace fastwan::eval {

// frames [F, 3, P, Q] in [0, 1], F >= 3: mean over all of |x(t+1) - 2 x(t) + x(t-1)|. Motion of
// constant speed counts too where it uncovers edges.
double flicker(const at::Tensor& frames);

// The same over pixels outside `moving` [F, P, Q] bool in all three frames; 0 where there are none.
// F = 2 gives 0.
double still_flicker(const at::Tensor& frames, const at::Tensor& moving);

}  // namespace fastwan::eval
