// Images: foreign ones read under limits, resized exactly as Pillow does, PNGs written.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "io/media.h"

namespace fastwan::io {

struct FrameSize {
  int64_t width = 0;
  int64_t height = 0;
  friend bool operator==(const FrameSize&, const FrameSize&) = default;
};

struct Image {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3], rows top to bottom
};

// As it will be shown: after the rotation that EXIF asks for. Reads headers only, by our own code;
// no decoder sees the file. PNG, JPEG, WebP; the first bytes decide, not the name.
// InvalidInput bad_image: another format, a broken header, a side outside 16..16384, more than
// 16 Mpx, an animation; bad_value: not a regular file.
FrameSize read_image_size(const Path& file);

// The same checks, then decoded by the ffmpeg child: EXIF rotation applied, alpha composited on
// black, 8 bits a channel. Besides: bad_image when the child fails or gives too few pixels.
Image read_image(const Path& file, const Ffmpeg& ffmpeg, std::stop_token stop);

// Pillow's Image.resize((width, height), LANCZOS) of an RGB image, bit for bit.
Image resize_lanczos(const Image& image, FrameSize to);

enum class Fit {
  kCrop,     // covers the target, what stands out is cut off equally on both sides
  kPad,      // whole image, black bars
  kStretch,  // aspect ratio given up
};
Image fit_image(const Image& image, FrameSize to, Fit fit);

// The bytes of a PNG; `metadata` goes into a text chunk when it is not empty.
std::string encode_png(const Image& image, std::string_view metadata = {});
void write_png(const Path& to, const Image& image, std::string_view metadata = {});

}  // namespace fastwan::io
