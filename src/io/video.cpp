#include "io/video.h"

#include <array>
#include <iomanip>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "io/media_metadata.h"
#include "io/video_sinks.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMaxSide = 16'384;

struct Format {
  std::string_view extension;
  std::unique_ptr<VideoSink> (*open)(SinkRequest);
  bool needs_ffmpeg = true;
  bool needs_even_sides = false;
};

constexpr std::array kFormats = {
    // Chroma of yuv420p has half the size in both directions.
    Format{".mp4", open_ffmpeg_video, /*needs_ffmpeg=*/true, /*needs_even_sides=*/true},
    Format{".webm", open_ffmpeg_video},
    Format{".gif", open_ffmpeg_video},
    Format{".webp", open_ffmpeg_video},
    Format{".png", open_png_frames, /*needs_ffmpeg=*/false},
    Format{".jpg", open_jpeg_frames},
};

const Format& format_of(const Path& to) {
  const std::string extension = to_lower(to.extension().string());
  for (const Format& format : kFormats) {
    if (format.extension == extension) {
      return format;
    }
  }
  throw InvalidInput(Code::kBadValue, str("a video's name must end in .mp4, .webm, .gif, .webp, "
                                          ".png or .jpg, got ",
                                          escape_control(to.string())));
}

void check(const Format& format, const Path& to, const VideoFormat& wanted) {
  const auto [width, height] = wanted.size;
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide) {
    throw InvalidInput(Code::kBadValue, str("a video's sides must be from 1 to ", kMaxSide,
                                            " pixels, got ", width, " x ", height));
  }
  if (wanted.fps < 1) {
    throw InvalidInput(Code::kBadValue,
                       str("a video needs at least 1 frame a second, got ", wanted.fps));
  }
  if (format.needs_even_sides && (width % 2 != 0 || height % 2 != 0)) {
    throw InvalidInput(Code::kBadValue, str(escape_control(to.string()), ": ", format.extension,
                                            " needs an even width and height, got ", width, " x ",
                                            height, ". Choose another size, or .webm or .png"));
  }
  require_metadata_text(wanted.metadata);
}

}  // namespace

std::unique_ptr<VideoSink> open_video(const Path& to,
                                      const VideoFormat& format,
                                      const Ffmpeg* ffmpeg,
                                      std::stop_token stop) {
  const Format& chosen = format_of(to);
  check(chosen, to, format);
  if (chosen.needs_ffmpeg && ffmpeg == nullptr) {
    throw IoError(Code::kMissingProgram,
                  str(escape_control(to.string()), ": ", chosen.extension,
                      " needs ffmpeg. Install it, or write PNG frames (a name ending in .png)"));
  }
  return chosen.open({.to = to, .format = format, .ffmpeg = ffmpeg, .stop = std::move(stop)});
}

Path numbered_frame(const Path& to, int64_t number) {
  return to.parent_path() / str(to.stem().string(), "_", std::setw(4), std::setfill('0'), number,
                                to.extension().string());
}

std::vector<Path> video_files(const Path& to, int64_t num_frames) {
  const std::string extension = to_lower(to.extension().string());
  if (num_frames == 1 || (extension != ".png" && extension != ".jpg")) {
    return {to};
  }
  std::vector<Path> files;
  for (int64_t number = 1; number <= num_frames; ++number) {
    files.push_back(numbered_frame(to, number));
  }
  return files;
}

}  // namespace fastwan::io
