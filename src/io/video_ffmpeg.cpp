// Videos and JPEG frames encoded by the ffmpeg child: frames go in on descriptor 0, metadata on
// descriptor 3, and the child writes a temporary file, which is renamed when all went well.
#include <cmath>
#include <optional>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "io/descriptor.h"
#include "io/media_metadata.h"
#include "io/video_frames.h"
#include "io/video_sinks.h"

namespace fastwan::io {
namespace {

using Words = std::vector<std::string>;

void append(Words& words, Words more) {
  words.insert(words.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
}

std::string number(int64_t value) {
  return std::to_string(value);
}

// RGB to Y'CbCr by BT.709's matrix, which players assume for what is tagged so; swscale's default
// is BT.601.
Words bt709_words() {
  return {"-vf",
          "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+"
          "full_chroma_int,format=yuv420p,setparams=color_primaries=bt709:color_trc=bt709:"
          "colorspace=bt709:range=tv",
          "-colorspace",
          "bt709",
          "-color_primaries",
          "bt709",
          "-color_trc",
          "bt709",
          "-color_range",
          "tv"};
}

Words mp4_words(const VideoFormat& format) {
  Words words = bt709_words();
  append(words, {"-c:v", "libx264", "-preset", "veryfast", "-crf", number(format.crf), "-g",
                 number(2 * format.fps), "-movflags", "+faststart", "-f", "mp4"});
  return words;
}

Words webm_words(const VideoFormat& format) {
  constexpr double kVp9Scale = 63.0 / 51.0;  // VP9's crf ends at 63, H.264's at 51
  const int64_t crf = std::lround(static_cast<double>(format.crf) * kVp9Scale);
  Words words = bt709_words();
  append(words, {"-c:v", "libvpx-vp9", "-b:v", "0", "-crf", number(crf), "-deadline", "good",
                 "-cpu-used", "4", "-g", number(2 * format.fps), "-f", "webm"});
  return words;
}

// One palette for the whole clip: a palette a frame flickers.
Words gif_words() {
  return {"-vf",
          "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=bayer:"
          "bayer_scale=3",
          "-c:v",
          "gif",
          "-loop",
          "0",
          "-f",
          "gif"};
}

Words webp_words(const VideoFormat& format) {
  const int64_t quality = std::lround(100.0 * (1.0 - static_cast<double>(format.crf) / 102.0));
  return {"-c:v",          "libwebp_anim", "-lossless", "0",  "-quality",
          number(quality), "-loop",        "0",         "-f", "webp"};
}

// -q:v 2 is the finest quantiser that ffmpeg uses by itself.
Words jpeg_words() {
  return {"-vf",  "scale=out_color_matrix=bt601:out_range=pc,format=yuvj444p",
          "-c:v", "mjpeg",
          "-q:v", "2",
          "-f",   "image2"};
}

Words encoder_words(const std::string& extension, const VideoFormat& format) {
  if (extension == ".mp4") {
    return mp4_words(format);
  }
  if (extension == ".webm") {
    return webm_words(format);
  }
  if (extension == ".gif") {
    return gif_words();
  }
  if (extension == ".webp") {
    return webp_words(format);
  }
  return jpeg_words();
}

// `to` is a file name or, for images, image2's pattern. "file:" keeps a name with a colon or a
// dash from being read as something else.
Words all_words(const SinkRequest& request, const std::string& to) {
  const VideoFormat& format = request.format;
  Words words = {"-protocol_whitelist",
                 "pipe",
                 "-f",
                 "rawvideo",
                 "-pixel_format",
                 "rgb24",
                 "-video_size",
                 str(format.size.width, "x", format.size.height),
                 "-framerate",
                 number(format.fps),
                 "-i",
                 "pipe:0"};
  if (!format.metadata.empty()) {
    append(words, {"-protocol_whitelist", "pipe", "-f", "ffmetadata", "-i", "pipe:3"});
  }
  append(words, {"-map", "0:v", "-map_metadata", format.metadata.empty() ? "-1" : "1"});
  append(words, encoder_words(to_lower(request.to.extension().string()), format));
  append(words, {"-threads", number(format.threads), "-flags:v", "+bitexact", "-fflags",
                 "+bitexact", "-y", "file:" + to});
  return words;
}

bool is_too_large(const std::string& error_text) {
  return error_text.find("File too large") != std::string::npos;
}

bool is_disk_full(const std::string& error_text) {
  return is_too_large(error_text) ||
         error_text.find("No space left on device") != std::string::npos ||
         error_text.find("Disk quota exceeded") != std::string::npos;
}

[[noreturn]] void throw_encoder_end(const Path& to, const ProcessEnd& end) {
  const std::string detail = end.last_line.empty() ? "" : ": " + end.last_line;
  if (is_disk_full(end.error_text)) {
    throw IoError(Code::kDiskFull,
                  str("cannot write ", escape_control(to.string()), detail, ". ",
                      is_too_large(end.error_text) ? "Raise `ulimit -f`" : "Free some space",
                      " or choose another folder"));
  }
  const std::string how = end.is_success() ? "ended before it had all frames" : end.describe();
  throw IoError(Code::kEncoderFailed, str(escape_control(to.string()), ": ffmpeg ", how, detail));
}

// The child itself, for a file or for a pattern.
class Encoder {
 public:
  Encoder(const SinkRequest& request, const std::string& to)
      : to_(request.to),
        frame_bytes_(
            static_cast<std::size_t>(request.format.size.width * request.format.size.height * 3)) {
    ProcessSpec spec = encoder_spec(*request.ffmpeg, all_words(request, to), request.stop);
    Descriptor metadata;
    if (!request.format.metadata.empty()) {
      metadata = memory_file(ffmetadata_text(request.format.metadata));
      spec.extra_fd = metadata.get();
    }
    process_.emplace(std::move(spec));
  }

  void write_frame(std::span<const uint8_t> rgb) {
    invariant(rgb.size() == frame_bytes_, "a frame has width * height * 3 bytes");
    if (!process_->write(std::as_bytes(rgb))) {
      throw_encoder_end(to_, process_->wait());
    }
    ++num_frames_;
  }

  void finish() {
    invariant(num_frames_ > 0, "a video has at least one frame");
    const ProcessEnd end = process_->wait();
    if (!end.is_success() || is_disk_full(end.error_text)) {
      throw_encoder_end(to_, end);
    }
  }

  int64_t num_frames() const { return num_frames_; }

 private:
  Path to_;
  std::size_t frame_bytes_;
  int64_t num_frames_ = 0;
  std::optional<Process> process_;
};

void require_content(const Path& to, const Path& written) {
  std::error_code error;
  if (std::filesystem::file_size(written, error) == 0 || error) {
    throw IoError(Code::kEncoderFailed, str(escape_control(to.string()), ": ffmpeg wrote no file"));
  }
}

class FfmpegVideo final : public VideoSink {
 public:
  explicit FfmpegVideo(const SinkRequest& request)
      : metadata_(request.format.metadata),
        to_(request.to),
        file_(request.to),
        encoder_(request, file_.temp_path().string()) {}

  void write_frame(std::span<const uint8_t> rgb) override { encoder_.write_frame(rgb); }

  void finish() override {
    encoder_.finish();
    require_content(to_, file_.temp_path());
    if (!metadata_.empty()) {
      add_media_metadata(file_.temp_path(), metadata_);
    }
    file_.commit();
  }

 private:
  std::string metadata_;
  Path to_;
  AtomicFile file_;  // outlives the child that writes it
  Encoder encoder_;
};

class JpegFrames final : public VideoSink {
 public:
  explicit JpegFrames(const SinkRequest& request)
      : metadata_(request.format.metadata),
        frames_(request.to),
        encoder_(request, frames_.pattern()) {}

  void write_frame(std::span<const uint8_t> rgb) override { encoder_.write_frame(rgb); }

  void finish() override {
    encoder_.finish();
    for (int64_t number = 1; number <= encoder_.num_frames(); ++number) {
      const Path frame = frames_.frame(number);
      require_content(frame, frame);
      if (!metadata_.empty()) {
        add_media_metadata(frame, metadata_);
      }
    }
    frames_.commit(encoder_.num_frames());
  }

 private:
  std::string metadata_;
  FrameFolder frames_;
  Encoder encoder_;
};

}  // namespace

std::unique_ptr<VideoSink> open_ffmpeg_video(SinkRequest request) {
  return std::make_unique<FfmpegVideo>(request);
}

std::unique_ptr<VideoSink> open_jpeg_frames(SinkRequest request) {
  return std::make_unique<JpegFrames>(request);
}

}  // namespace fastwan::io
