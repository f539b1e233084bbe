// A set of videos by name: a folder, or one safetensors file that holds many.
//
//   .mp4 .mov .mkv .webm     one video each, through the ffmpeg child
//   .safetensors             `frames` [F, 3, P, Q], one video, or [N, F, 3, P, Q], N of them:
//   floats
//                            in [0, 1] or bytes; `codes` [N] (int64), if there, say which
//                            procedural attributes each clip was asked for
//   a folder of .png, .jpg   one video, its frames in the order of their names
//
// Dims  F frames, P height, Q width in pixels
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/files.h"
#include "data/shapes.h"

namespace fastwan::eval {

struct VideoSetOptions {
  std::vector<Path> venvs;  // Python environments that may bring an ffmpeg
  double fps = 0;           // frames are taken at this rate where the file knows its own; 0: all
  std::stop_token stop;
};

class VideoSet {
 public:
  // Reads names and headers, no frames. IoError not_found; missing_program when videos want ffmpeg
  // and there is none; InvalidInput bad_media: nothing here is a video.
  VideoSet(const Path& where, const VideoSetOptions& options);
  ~VideoSet();
  VideoSet(const VideoSet&) = delete;
  VideoSet& operator=(const VideoSet&) = delete;

  int64_t size() const;
  // File name without extension, "/number" after it for each of a file of many; of one file alone
  // the number only. Sorted.
  const std::string& name(int64_t index) const;
  std::optional<int64_t> find(const std::string& name) const;
  // [F, 3, P, Q] fp32 in [0, 1]. InvalidInput bad_media, bad_image, bad_tensor naming the file;
  // Stopped.
  at::Tensor frames(int64_t index) const;
  // What a procedural clip was asked for, if its file says so.
  std::optional<data::shapes::Attributes> wanted(int64_t index) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastwan::eval
