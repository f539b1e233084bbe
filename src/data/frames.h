// Which frames of a video become a clip, and which part of each frame.
//
// The law is FastVideo's preprocessing: frames nearest below k / train_fps (where the video's
// frames are spaced unevenly, by their own times), the first `num_frames` of them or a random
// window, centre crop to the target's aspect, bilinear resize with antialiasing. Random choices are
// keyed by seed and the video's number, so that shards and resumed runs choose alike.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "io/image.h"

namespace fastwan::data {

struct ClipShape {
  int64_t num_frames = 77;  // 4k+1
  int64_t height = 448;
  int64_t width = 832;
  double train_fps = 16;
};

struct ClipRule {
  ClipShape shape;
  // A video longer than this many clips is left out.
  double length_tolerance = 2.0;
  double speed_factor = 1.0;
  bool random_window = false;     // else the first frames
  double drop_short_ratio = 1.0;  // the share of too short videos that is left out; the others give
                                  // shorter clips, cut to 4k+1 frames
  uint64_t seed = 1000;
};

struct FrameChoice {
  std::vector<int64_t> frames;  // of the video, ascending; repeats where train_fps is above fps
  std::string left_out;         // why, when there are none
};

// `number`: of the video in the whole list. Stream kData, step 0, slot = number: element 0 decides
// whether a short video is dropped, element 1 where the window starts. `times`: io::VideoInfo's.
FrameChoice choose_frames(int64_t num_frames,
                          double fps,
                          const ClipRule& rule,
                          int64_t number,
                          std::span<const double> times = {});

struct CropBox {
  int64_t top = 0, left = 0, height = 0, width = 0;
  friend bool operator==(const CropBox&, const CropBox&) = default;
};
// The largest centred box of the target's aspect.
CropBox centre_crop(io::FrameSize from, int64_t height, int64_t width);

// rgb [h, w, 3] bytes -> [3, height, width] bytes.
at::Tensor fit_frame(std::span<const uint8_t> rgb, io::FrameSize size, const ClipShape& shape);

// [F, 3, P, Q] bytes -> [1, 3, F, P, Q] fp32 in [-1, 1].
at::Tensor to_video(const at::Tensor& frames);

}  // namespace fastwan::data
