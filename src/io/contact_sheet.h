// A grid of a video's frames in one PNG, each with its time.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "io/image.h"

namespace fastwan::io {

struct ContactSheetFormat {
  int64_t columns = 0, rows = 0;
  FrameSize frame;
  int64_t num_frames = 0;  // of the video
  int64_t fps = 0;
};

class ContactSheet {
 public:
  explicit ContactSheet(const ContactSheetFormat& format);

  // The next frame of the video, rgb24. Those shown lie evenly from the first to the last; a video
  // shorter than the grid fills its first places.
  void add(std::span<const uint8_t> rgb);
  void write(const Path& to, std::string_view metadata = {}) const;
  const Image& image() const { return image_; }

 private:
  int64_t num_places() const;
  int64_t frame_at(int64_t place) const;
  void put(std::span<const uint8_t> rgb, int64_t place);

  ContactSheetFormat format_;
  Image image_;
  int64_t next_frame_ = 0;
  int64_t next_place_ = 0;
};

}  // namespace fastwan::io
