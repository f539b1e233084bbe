// Videos written, frame by frame.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/files.h"
#include "io/image.h"
#include "io/media.h"

namespace fastwan::io {

struct VideoFormat {
  FrameSize size;
  int64_t fps = 0;
  int64_t crf = 18;      // H.264's scale, 0 best to 51; WebM and WebP derive theirs from it
  int threads = 4;       // of the encoder; the same number gives the same bytes
  std::string metadata;  // JSON text put into the file; empty: none
};

class VideoSink {
 public:
  virtual ~VideoSink() = default;
  // rgb24, rows top to bottom, width * height * 3 bytes, one frame a call. IoError encoder_failed,
  // disk_full; Stopped.
  virtual void write_frame(std::span<const uint8_t> rgb) = 0;
  // Puts the file in its place, atomically; without it nothing is left.
  virtual void finish() = 0;
};

// By extension: .mp4 (H.264 yuv420p bt709, index first), .webm (VP9), .gif, .webp (animated), all
// through ffmpeg; .png without it; .jpg. One frame of .png or .jpg becomes `to` itself; more become
// numbered_frame(to, 1), numbered_frame(to, 2), ... and replace what has such a name.
// InvalidInput bad_value: another extension, an odd side for H.264; IoError missing_program when
// `ffmpeg` is needed and null.
std::unique_ptr<VideoSink> open_video(const Path& to,
                                      const VideoFormat& format,
                                      const Ffmpeg* ffmpeg,
                                      std::stop_token stop);

Path numbered_frame(const Path& to, int64_t number);  // clip.png, 3: clip_0003.png

// The files that a video of `num_frames` frames becomes.
std::vector<Path> video_files(const Path& to, int64_t num_frames);

}  // namespace fastwan::io
