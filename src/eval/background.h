// Which of the four backgrounds a still grey picture shows.
#pragma once

#include <vector>

#include "data/shapes.h"

namespace fastwan::eval {

// Grey levels where they are known.
struct StillPicture {
  data::shapes::Format format;
  std::vector<double> levels;     // [P, Q]
  std::vector<uint8_t> is_known;  // [P, Q]
};

struct BackgroundFit {
  data::shapes::Background background = data::shapes::Background::kPlain;
  double error = 0;  // standard deviation of what the model leaves
  double angle = 0;  // radians: stripes [0, pi), gradient [0, 2 pi); others 0
};

// Each model has the levels of shapes.h, its angle and phases fitted, and a free brightness. The
// one that leaves least wins.
BackgroundFit fit_background(const StillPicture& picture);

}  // namespace fastwan::eval
