// What a video shows at once of a model that fails, in numbers without a reference: frames come in
// chunks, none are kept but two.
//
//   clipped           share of values x <= 1/255 or x >= 254/255   burnt out or black
//   contrast          standard deviation of y over a frame, mean over frames   0: one grey
//   saturation        mean over pixels of max - min over r g b     0: grey, towards 1: garish
//   frame_difference  mean of |x(t+1) - x(t)|                      0: a still
//   flicker           mean of |x(t+1) - 2 x(t) + x(t-1)|, as eval::flicker
//   y = .2126 r + .7152 g + .0722 b, of the values as they are (Rec. 709)
//
// Means are over all frames, pixels and channels; fp64 sums.
//
// Dims  F frames in all, f of a chunk, P height, Q width in pixels
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

namespace fastwan::eval {

class VideoStatistics {
 public:
  // The next frames, [f, 3, P, Q] in [0, 1], f >= 1, of any floating type and device.
  void add(const at::Tensor& frames);

  // By the names above; none of no frames, frame_difference from two on, flicker from three on.
  std::map<std::string, double> values() const;

 private:
  void add_few(const at::Tensor& x);  // [f, 3, P, Q] fp32

  int64_t num_frames_ = 0;
  double clipped_ = 0, contrast_ = 0, saturation_ = 0;  // sums over frames
  double difference_ = 0, flicker_ = 0;                 // over pairs, over triples
  at::Tensor last_;                                     // [up to 2, 3, P, Q] fp32
};

}  // namespace fastwan::eval
