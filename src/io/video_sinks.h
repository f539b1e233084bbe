// The sinks behind open_video().
#pragma once

#include <memory>

#include "io/video.h"

namespace fastwan::io {

struct SinkRequest {
  Path to;
  VideoFormat format;
  const Ffmpeg* ffmpeg = nullptr;  // not null where a child encodes
  std::stop_token stop;
};

std::unique_ptr<VideoSink> open_ffmpeg_video(SinkRequest request);  // .mp4 .webm .gif .webp
std::unique_ptr<VideoSink> open_png_frames(SinkRequest request);
std::unique_ptr<VideoSink> open_jpeg_frames(SinkRequest request);

}  // namespace fastwan::io
