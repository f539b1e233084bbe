#include "io/image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/text.h"
#include "io/descriptor.h"
#include "io/image_header.h"
#include "io/media_bytes.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMinSide = 16;
constexpr int64_t kMaxSide = 16'384;
constexpr int64_t kMaxPixels = 16'000'000;
constexpr int64_t kMaxFileBytes = int64_t{64} << 20;

ImageHeader read_checked_header(const MediaBytes& bytes) {
  const ImageHeader header = read_header(bytes);
  const auto [width, height] = header.size;
  if (std::min(width, height) < kMinSide || std::max(width, height) > kMaxSide ||
      width * height > kMaxPixels) {
    throw InvalidInput(Code::kBadImage,
                       str(escape_control(bytes.file().string()), ": an image must have sides of ",
                           kMinSide, " to ", kMaxSide, " pixels and at most ", kMaxPixels,
                           " pixels, got ", width, " x ", height));
  }
  if (bytes.size() > kMaxFileBytes) {
    throw InvalidInput(Code::kBadImage,
                       str(escape_control(bytes.file().string()), ": an image file has at most ",
                           kMaxFileBytes, " bytes, got ", bytes.size()));
  }
  return header;
}

FrameSize upright_size(const ImageHeader& header) {
  return header.orientation >= 5 ? FrameSize{header.size.height, header.size.width} : header.size;
}

std::string demuxer_of(ImageFormat format) {
  switch (format) {
    case ImageFormat::kPng:
      return "png_pipe";
    case ImageFormat::kJpeg:
      return "jpeg_pipe";
    case ImageFormat::kWebp:
      return "webp_pipe";
  }
  return {};
}

// The pixels as stored, [height, width, 4].
std::vector<uint8_t> decode_rgba(const MediaBytes& bytes,
                                 const ImageHeader& header,
                                 const Ffmpeg& ffmpeg,
                                 std::stop_token stop) {
  // The child gets a copy: what was checked is what it sees, whatever happens to the file.
  const std::string content = bytes.read(0, bytes.size());
  const Descriptor input = memory_file(content);
  ProcessSpec spec =
      decoder_spec(ffmpeg,
                   {"-protocol_whitelist",
                    "pipe",
                    "-f",
                    demuxer_of(header.format),
                    "-noautorotate",
                    "-err_detect",
                    "crccheck+bitstream+buffer+explode",
                    "-xerror",
                    "-i",
                    "pipe:0",
                    "-map",
                    "0:v",
                    "-frames:v",
                    "1",
                    "-vf",
                    "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
                    "-pix_fmt",
                    "rgba",
                    "-f",
                    "rawvideo",
                    "pipe:1"},
                   std::move(stop));
  spec.input_fd = input.get();
  const int64_t wanted = header.size.width * header.size.height * 4;
  const ProcessResult result = run_process(std::move(spec), wanted + 1);
  if (!result.end.is_success() || static_cast<int64_t>(result.output.size()) != wanted) {
    const std::string reason =
        result.end.is_success()
            ? str("ffmpeg gave ", result.output.size(), " bytes, wanted ", wanted)
            : str("ffmpeg ", result.end.describe(), result.end.last_line.empty() ? "" : ": ",
                  result.end.last_line);
    throw InvalidInput(Code::kBadImage,
                       str(escape_control(bytes.file().string()), ": cannot be decoded: ", reason));
  }
  return {result.output.begin(), result.output.end()};
}

Image composite_on_black(const std::vector<uint8_t>& rgba, FrameSize size) {
  Image image{size.width, size.height, {}};
  image.rgb.resize(rgba.size() / 4 * 3);
  for (std::size_t pixel = 0; pixel < rgba.size() / 4; ++pixel) {
    const int alpha = rgba[pixel * 4 + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      image.rgb[pixel * 3 + c] = static_cast<uint8_t>((rgba[pixel * 4 + c] * alpha + 127) / 255);
    }
  }
  return image;
}

// Where pixel (x, y) of the upright image is in the stored one; EXIF 2.32, tag 274.
FrameSize stored_position(int orientation, FrameSize stored, int64_t x, int64_t y) {
  const int64_t right = stored.width - 1;
  const int64_t bottom = stored.height - 1;
  switch (orientation) {
    case 2:
      return {right - x, y};
    case 3:
      return {right - x, bottom - y};
    case 4:
      return {x, bottom - y};
    case 5:
      return {y, x};
    case 6:
      return {y, bottom - x};
    case 7:
      return {right - y, bottom - x};
    case 8:
      return {right - y, x};
    default:
      return {x, y};
  }
}

Image upright(Image stored, const ImageHeader& header) {
  if (header.orientation == 1) {
    return stored;
  }
  const FrameSize size = upright_size(header);
  Image image{size.width, size.height, std::vector<uint8_t>(stored.rgb.size())};
  for (int64_t y = 0; y < size.height; ++y) {
    for (int64_t x = 0; x < size.width; ++x) {
      const FrameSize from = stored_position(header.orientation, header.size, x, y);
      std::memcpy(
          &image.rgb[static_cast<std::size_t>((y * size.width + x) * 3)],
          &stored.rgb[static_cast<std::size_t>((from.height * stored.width + from.width) * 3)], 3);
    }
  }
  return image;
}

// The part of `image` that starts at (left, top), black where it stands out.
Image crop(const Image& image, int64_t left, int64_t top, FrameSize size) {
  Image out{size.width, size.height,
            std::vector<uint8_t>(static_cast<std::size_t>(size.width * size.height * 3))};
  const int64_t first = std::max<int64_t>(0, -left);
  const int64_t last = std::min(size.width, image.width - left);
  for (int64_t y = std::max<int64_t>(0, -top); y < std::min(size.height, image.height - top); ++y) {
    const auto* row = &image.rgb[static_cast<std::size_t>((y + top) * image.width * 3)];
    std::copy(row + (first + left) * 3, row + (last + left) * 3,
              out.rgb.begin() + (y * size.width + first) * 3);
  }
  return out;
}

// Python's round() rounds halves to even, as nearbyint() does.
FrameSize scaled(const Image& image, double scale) {
  const auto side = [scale](int64_t pixels) {
    return std::max<int64_t>(
        1, static_cast<int64_t>(std::nearbyint(static_cast<double>(pixels) * scale)));
  };
  return {side(image.width), side(image.height)};
}

int64_t floor_half(int64_t value) {
  return value >= 0 ? value / 2 : -((1 - value) / 2);
}

}  // namespace

FrameSize read_image_size(const Path& file) {
  return upright_size(read_checked_header(MediaBytes(file)));
}

Image read_image(const Path& file, const Ffmpeg& ffmpeg, std::stop_token stop) {
  const MediaBytes bytes(file);
  const ImageHeader header = read_checked_header(bytes);
  const std::vector<uint8_t> rgba = decode_rgba(bytes, header, ffmpeg, std::move(stop));
  return upright(composite_on_black(rgba, header.size), header);
}

Image fit_image(const Image& image, FrameSize to, Fit fit) {
  if (fit == Fit::kStretch) {
    return resize_lanczos(image, to);
  }
  const double by_width = static_cast<double>(to.width) / static_cast<double>(image.width);
  const double by_height = static_cast<double>(to.height) / static_cast<double>(image.height);
  const double scale =
      fit == Fit::kCrop ? std::max(by_width, by_height) : std::min(by_width, by_height);
  const Image resized = resize_lanczos(image, scaled(image, scale));
  return crop(resized, floor_half(resized.width - to.width), floor_half(resized.height - to.height),
              to);
}

}  // namespace fastwan::io
