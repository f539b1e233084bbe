#include "io/image_header.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMaxPieces = 10'000;
constexpr int64_t kMaxExifBytes = int64_t{1} << 20;

[[noreturn]] void throw_bad_image(const MediaBytes& bytes, std::string_view what) {
  throw InvalidInput(Code::kBadImage, str(escape_control(bytes.file().string()), ": ", what));
}

// The orientation tag of a TIFF structure; 1 where there is none or it makes no sense.
int read_orientation(std::string_view tiff) {
  constexpr uint64_t kOrientationTag = 0x0112;
  constexpr std::size_t kEntryBytes = 12;
  if (!tiff.starts_with("II") && !tiff.starts_with("MM")) {
    return 1;
  }
  const auto number = [&](std::size_t at, std::size_t count) -> uint64_t {
    if (at > tiff.size() || tiff.size() - at < count) {
      return 0;
    }
    return tiff[0] == 'I' ? little_endian(tiff.substr(at, count))
                          : big_endian(tiff.substr(at, count));
  };
  const std::size_t directory = number(4, 4);
  const std::size_t num_entries = number(directory, 2);
  for (std::size_t i = 0; i < num_entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntryBytes;
    if (number(entry, 2) == kOrientationTag) {
      const uint64_t value = number(entry + 8, 2);
      return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
  }
  return 1;
}

std::string read_exif(const MediaBytes& bytes, ByteRange range) {
  constexpr std::string_view kStart("Exif\0\0", 6);
  std::string exif = bytes.read(range.begin, std::min(range.size(), kMaxExifBytes));
  return exif.starts_with(kStart) ? exif.substr(kStart.size()) : exif;
}

// --- PNG ---

constexpr std::string_view kPngStart("\x89PNG\r\n\x1a\n", 8);

ImageHeader read_png_header(const MediaBytes& bytes) {
  constexpr int64_t kHeader = 8;
  constexpr int64_t kChecksum = 4;
  constexpr int64_t kIhdrBytes = 13;
  ImageHeader header{.format = ImageFormat::kPng};
  int64_t at = static_cast<int64_t>(kPngStart.size());
  for (int64_t count = 0; count < kMaxPieces; ++count) {
    const std::string start = bytes.read(at, kHeader);
    const auto size = static_cast<int64_t>(big_endian(start.substr(0, 4)));
    const std::string_view type = std::string_view(start).substr(4);
    if (!bytes.has(at + kHeader, size + kChecksum)) {
      throw_bad_image(bytes, str("the file ends inside the PNG chunk ", escape_control(type)));
    }
    if ((count == 0) != (type == "IHDR") || (count == 0 && size != kIhdrBytes)) {
      throw_bad_image(bytes, "a PNG must start with one IHDR chunk of 13 bytes");
    }
    if (count == 0) {
      header.size = {static_cast<int64_t>(big_endian(bytes.read(at + kHeader, 4))),
                     static_cast<int64_t>(big_endian(bytes.read(at + kHeader + 4, 4)))};
    } else if (type == "eXIf") {
      header.orientation = read_orientation(read_exif(bytes, {at + kHeader, at + kHeader + size}));
    } else if (type == "acTL") {
      throw_bad_image(bytes, "an animated PNG; save its first frame as a plain PNG");
    } else if (type == "IDAT" || type == "IEND") {
      return header;
    }
    at += kHeader + size + kChecksum;
  }
  throw_bad_image(bytes, "a PNG without picture");
}

// --- JPEG ---

bool is_frame_marker(unsigned char marker) {  // SOF0 to SOF15 without DHT, JPG and DAC
  return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

ImageHeader read_jpeg_header(const MediaBytes& bytes) {
  constexpr int64_t kFrameHeader = 6;  // precision, height, width, number of components
  ImageHeader header{.format = ImageFormat::kJpeg};
  bool has_exif = false;
  bool has_frame = false;
  for_each_jpeg_segment(bytes, [&](const JpegSegment& segment) {
    const auto marker = static_cast<unsigned char>(segment.marker);
    if (marker == 0xE1 && !has_exif && segment.content.size() > 6 &&
        bytes.read(segment.content.begin, 4) == "Exif") {
      has_exif = true;
      header.orientation = read_orientation(read_exif(bytes, segment.content));
    } else if (is_frame_marker(marker)) {
      if (has_frame || segment.content.size() < kFrameHeader) {
        throw_bad_image(bytes, "a JPEG must have one whole frame header");
      }
      const std::string frame = bytes.read(segment.content.begin, kFrameHeader);
      header.size = {static_cast<int64_t>(big_endian(frame.substr(3, 2))),
                     static_cast<int64_t>(big_endian(frame.substr(1, 2)))};
      if (frame[0] != 8 || (frame[5] != 1 && frame[5] != 3)) {
        throw_bad_image(bytes, str("a JPEG must be grey or RGB with 8 bits, got ", int{frame[5]},
                                   " components of ", int{frame[0]}, " bits. Convert it to RGB"));
      }
      has_frame = true;
    }
    return true;
  });
  if (!has_frame) {
    throw_bad_image(bytes, "a JPEG without frame header");
  }
  return header;
}

// --- WebP ---

// Lossy key frame: 3 bytes tag, start code 9d 01 2a, 14 bits a side.
FrameSize vp8_size(const MediaBytes& bytes, ByteRange content) {
  const std::string start = bytes.read(content.begin, std::min<int64_t>(content.size(), 10));
  if (start.size() < 10 || start.substr(3, 3) != "\x9D\x01\x2A") {
    throw_bad_image(bytes, "a broken WebP picture");
  }
  return {static_cast<int64_t>(little_endian(start.substr(6, 2)) & 0x3FFF),
          static_cast<int64_t>(little_endian(start.substr(8, 2)) & 0x3FFF)};
}

// Lossless: signature 2f, 14 bits a side, each less one.
FrameSize vp8l_size(const MediaBytes& bytes, ByteRange content) {
  const std::string start = bytes.read(content.begin, std::min<int64_t>(content.size(), 5));
  if (start.size() < 5 || start[0] != '\x2F') {
    throw_bad_image(bytes, "a broken lossless WebP picture");
  }
  const uint64_t bits = little_endian(start.substr(1, 4));
  return {static_cast<int64_t>((bits & 0x3FFF) + 1),
          static_cast<int64_t>((bits >> 14 & 0x3FFF) + 1)};
}

ImageHeader read_webp_header(const MediaBytes& bytes) {
  constexpr char kAnimation = 0x02;
  ImageHeader header{.format = ImageFormat::kWebp};
  std::optional<FrameSize> canvas;
  std::optional<FrameSize> picture;
  for_each_webp_chunk(bytes, [&](const WebpChunk& chunk) {
    if (chunk.type == "VP8X" && chunk.content.size() >= 10) {
      const std::string extended = bytes.read(chunk.content.begin, 10);
      if ((extended[0] & kAnimation) != 0) {
        throw_bad_image(bytes, "an animated WebP; save its first frame as a PNG");
      }
      canvas = FrameSize{static_cast<int64_t>(little_endian(extended.substr(4, 3)) + 1),
                         static_cast<int64_t>(little_endian(extended.substr(7, 3)) + 1)};
    } else if (chunk.type == "VP8 " && !picture) {
      picture = vp8_size(bytes, chunk.content);
    } else if (chunk.type == "VP8L" && !picture) {
      picture = vp8l_size(bytes, chunk.content);
    } else if (chunk.type == "EXIF") {
      header.orientation = read_orientation(read_exif(bytes, chunk.content));
    }
    return true;
  });
  if (!picture || (canvas && *canvas != *picture)) {
    throw_bad_image(bytes, "a WebP must hold one picture as large as its canvas");
  }
  header.size = *picture;
  return header;
}

}  // namespace

void for_each_jpeg_segment(const MediaBytes& bytes,
                           const std::function<bool(const JpegSegment&)>& use) {
  constexpr unsigned char kEndOfImage = 0xD9;
  constexpr unsigned char kStartOfScan = 0xDA;
  int64_t at = 2;
  for (int64_t count = 0; count < kMaxPieces; ++count) {
    const std::string marker = bytes.read_some(at, 2);
    if (marker.size() < 2 || marker[0] != '\xFF') {
      bytes.throw_bad("a JPEG segment must start with ff", at);
    }
    const auto kind = static_cast<unsigned char>(marker[1]);
    if (kind == 0xFF) {  // padding
      ++at;
      continue;
    }
    if (kind == kStartOfScan || kind == kEndOfImage) {
      return;
    }
    const auto length = static_cast<int64_t>(big_endian(bytes.read(at + 2, 2)));
    if (length < 2 || !bytes.has(at + 2, length)) {
      bytes.throw_bad(str("a JPEG segment says ", length, " bytes"), at);
    }
    if (!use({.marker = marker[1], .content = {at + 4, at + 2 + length}})) {
      return;
    }
    at += 2 + length;
  }
  bytes.throw_bad("too many JPEG segments", at);
}

void for_each_webp_chunk(const MediaBytes& bytes,
                         const std::function<bool(const WebpChunk&)>& use) {
  constexpr int64_t kRiffHeader = 12;
  constexpr int64_t kHeader = 8;
  const auto riff_size = static_cast<int64_t>(little_endian(bytes.read(4, 4)));
  const int64_t end = std::min(bytes.size(), riff_size + 8);
  int64_t at = kRiffHeader;
  for (int64_t count = 0; end - at >= kHeader; ++count) {
    const std::string header = bytes.read(at, kHeader);
    const auto size = static_cast<int64_t>(little_endian(header.substr(4, 4)));
    if (size > end - at - kHeader || count >= kMaxPieces) {
      bytes.throw_bad(str("a WebP chunk says ", size, " bytes"), at);
    }
    if (!use({.type = header.substr(0, 4), .content = {at + kHeader, at + kHeader + size}})) {
      return;
    }
    at += kHeader + size + size % 2;
  }
}

ImageHeader read_header(const MediaBytes& bytes) {
  const std::string start = bytes.read_some(0, 16);
  try {
    if (start.starts_with(kPngStart)) {
      return read_png_header(bytes);
    }
    if (start.starts_with("\xFF\xD8\xFF")) {
      return read_jpeg_header(bytes);
    }
    if (start.starts_with("RIFF") && start.size() >= 12 && start.substr(8, 4) == "WEBP") {
      return read_webp_header(bytes);
    }
  } catch (const InvalidInput& error) {
    if (error.code() == Code::kBadMedia) {  // of the readers that other media share
      throw InvalidInput(Code::kBadImage, error.what());
    }
    throw;
  }
  throw_bad_image(bytes, "not an image that can be read; wanted PNG, JPEG or WebP");
}

}  // namespace fastwan::io
