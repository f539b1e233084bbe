// Frames as files of their own: made in a hidden folder beside the target, moved into place when
// all are there.
#pragma once

#include <cstdint>
#include <string>

#include "base/files.h"

namespace fastwan::io {

class FrameFolder {
 public:
  explicit FrameFolder(Path to);  // IoError when the folder cannot be made
  ~FrameFolder();
  FrameFolder(const FrameFolder&) = delete;
  FrameFolder& operator=(const FrameFolder&) = delete;

  Path frame(int64_t number) const;  // 1-based, inside the hidden folder
  std::string pattern() const;       // the same names as ffmpeg's image2 muxer spells them

  // One frame becomes `to`, more become numbered_frame(to, 1) and so on, durably. If one cannot be
  // placed, those placed before are taken away.
  void commit(int64_t num_frames);

 private:
  Path to_;
  Path folder_;
};

}  // namespace fastwan::io
