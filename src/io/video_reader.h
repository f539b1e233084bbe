// Videos read, frame by frame, through the ffmpeg child.
//
// mp4 and mov, matroska and webm, avi, MPEG streams, wmv, flv, ogg, gif, mxf, ivf and y4m; the
// first bytes decide, not the name. Formats that name other files are not among them. The child
// gets the open file as a descriptor and no protocol that could reach another one; its limits are
// decoder_spec()'s.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <vector>

#include "base/files.h"
#include "io/image.h"
#include "io/media.h"

namespace fastwan::io {

struct VideoInfo {
  FrameSize size;          // upright: after the rotation that the file asks for
  double fps = 0;          // frames a second, on average where they are spaced unevenly
  int64_t num_frames = 0;  // that are shown, as the stream's packets say; what decodes may be fewer
  // Where a frame is half a frame or more from its place in an even row: seconds of each frame
  // after the first, ascending. Else empty.
  std::vector<double> times;
};

// Of the first video stream that is no cover picture. InvalidInput bad_value: not a regular file;
// bad_media: another format, no video stream, sides outside 16..8192 or above 16 Mpx, a rate that
// is not in (0, 1000], more than a million frames.
VideoInfo probe_video(const Path& file, const Ffmpeg& ffmpeg, std::stop_token stop);

class VideoReader {
 public:
  // `info` is probe_video()'s of the same file.
  VideoReader(const Path& file, const VideoInfo& info, const Ffmpeg& ffmpeg, std::stop_token stop);
  ~VideoReader();
  VideoReader(const VideoReader&) = delete;
  VideoReader& operator=(const VideoReader&) = delete;

  // The next frame as [height, width, 3] bytes; false at the end of the stream. InvalidInput
  // bad_media when the child fails or the stream ends inside a frame; Stopped.
  bool read_frame(std::vector<uint8_t>& rgb);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastwan::io
