// The headers of PNG, JPEG and WebP files, read by our own code before any decoder sees the file.
#pragma once

#include <functional>
#include <string>

#include "io/image.h"
#include "io/media_bytes.h"

namespace fastwan::io {

enum class ImageFormat { kPng, kJpeg, kWebp };

struct ImageHeader {
  ImageFormat format = ImageFormat::kPng;
  FrameSize size;       // as stored
  int orientation = 1;  // EXIF: 1 upright to 8; from 5 on width and height change places
};

// InvalidInput bad_image: another format, a broken or contradictory header, an animation, four
// colour components. No limit on the size yet.
ImageHeader read_header(const MediaBytes& bytes);

struct JpegSegment {
  char marker = 0;    // the byte after 0xFF
  ByteRange content;  // after the length
};
// The segments before the picture's data, until `use` says false.
void for_each_jpeg_segment(const MediaBytes& bytes,
                           const std::function<bool(const JpegSegment&)>& use);

struct WebpChunk {
  std::string type;
  ByteRange content;
};
void for_each_webp_chunk(const MediaBytes& bytes, const std::function<bool(const WebpChunk&)>& use);

}  // namespace fastwan::io
