#include "io/video_reader.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "io/descriptor.h"
#include "io/media_bytes.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMinSide = 16;
constexpr int64_t kMaxSide = 8'192;
constexpr int64_t kMaxPixels = 16'000'000;
constexpr int64_t kMaxFrames = 1'000'000;
constexpr double kMaxRate = 1000;
constexpr int64_t kBytesPerLine = 128;  // of the packet list, at most

[[noreturn]] void throw_bad(const Path& file, const std::string& what) {
  throw InvalidInput(Code::kBadMedia, str(escape_control(file.string()), ": ", what));
}

std::string describe(const ProcessEnd& end) {
  return str("ffmpeg ", end.describe(), end.last_line.empty() ? "" : ": ", end.last_line);
}

std::string demuxer_of(const Path& file) {
  const MediaBytes bytes(file);
  const std::string start = bytes.read_some(0, 12);
  if (start.starts_with("\x1A\x45\xDF\xA3")) {
    return "matroska";
  }
  const std::string_view box = start.size() < 8 ? "" : std::string_view(start).substr(4, 4);
  for (const char* type : {"ftyp", "moov", "mdat", "wide", "free", "skip"}) {
    if (box == type) {
      return "mov";
    }
  }
  throw_bad(file, "is neither mp4, mov, matroska nor webm");
}

using Words = std::vector<std::string>;

// A child that reads `file` on descriptor 0 and writes to descriptor 1.
ProcessSpec reader_spec(const Path& file,
                        const Ffmpeg& ffmpeg,
                        Words output,
                        std::stop_token stop) {
  Words words;
  if (ffmpeg.has_fd_protocol) {
    words = {"-protocol_whitelist", "fd,pipe", "-f", demuxer_of(file), "-fd", "0", "-i", "fd:"};
  } else {  // before 6.0: the same open file, by its only name that the child knows
    words = {"-protocol_whitelist", "file,pipe", "-f", demuxer_of(file), "-i", "file:/dev/fd/0"};
  }
  words.insert(words.end(), {"-map", "0:V:0"});
  words.insert(words.end(), std::make_move_iterator(output.begin()),
               std::make_move_iterator(output.end()));
  words.emplace_back("pipe:1");
  return decoder_spec(ffmpeg, std::move(words), std::move(stop));
}

ProcessResult ask(const Path& file,
                  const Ffmpeg& ffmpeg,
                  Words output,
                  int64_t output_limit,
                  std::stop_token stop) {
  ProcessSpec spec = reader_spec(file, ffmpeg, std::move(output), std::move(stop));
  const Descriptor input = open_regular_file(file);
  spec.input_fd = input.get();
  return run_process(std::move(spec), output_limit);
}

// "YUV4MPEG2 W640 H480 F30000:1001 Ip A1:1 Cmono": size after rotation, and the frame rate.
void read_header(const Path& file, std::string_view header, VideoInfo& info) {
  double numerator = 0, denominator = 0;
  for (const std::string& word : split(header, ' ')) {
    const std::string_view value = std::string_view(word).substr(word.empty() ? 0 : 1);
    if (word.starts_with('W')) {
      info.size.width = parse_int(value).value_or(0);
    } else if (word.starts_with('H')) {
      info.size.height = parse_int(value).value_or(0);
    } else if (word.starts_with('F')) {
      const std::vector<std::string> parts = split(value, ':');
      numerator = parse_double(parts[0]).value_or(0);
      denominator = parts.size() == 2 ? parse_double(parts[1]).value_or(0) : 0;
    }
  }
  const auto [width, height] = info.size;
  if (std::min(width, height) < kMinSide || std::max(width, height) > kMaxSide ||
      width * height > kMaxPixels) {
    throw_bad(file, str("a video must have sides of ", kMinSide, " to ", kMaxSide,
                        " pixels and at most ", kMaxPixels, " pixels, got ", width, " x ", height));
  }
  info.fps = denominator > 0 ? numerator / denominator : 0;
  if (!(info.fps > 0 && info.fps <= kMaxRate)) {
    throw_bad(file, str("has an impossible frame rate of ", numerator, "/", denominator));
  }
}

int64_t count_packets(std::string_view list) {
  int64_t count = 0;
  for (const std::string& line : split(list, '\n')) {
    count += !line.empty() && line[0] != '#' ? 1 : 0;
  }
  return count;
}

}  // namespace

VideoInfo probe_video(const Path& file, const Ffmpeg& ffmpeg, std::stop_token stop) {
  constexpr int64_t kMaxHeader = 1024;
  VideoInfo info;
  const ProcessResult first = ask(
      file, ffmpeg, {"-frames:v", "1", "-pix_fmt", "gray", "-f", "yuv4mpegpipe"}, kMaxHeader, stop);
  const std::size_t line = first.output.find('\n');
  if (!first.output.starts_with("YUV4MPEG2 ") || line == std::string::npos) {
    throw_bad(file, str("holds no video that can be decoded: ", describe(first.end)));
  }
  read_header(file, std::string_view(first.output).substr(0, line), info);

  // One line a packet, nothing is decoded.
  const ProcessResult packets = ask(file, ffmpeg, {"-c", "copy", "-f", "framecrc"},
                                    kMaxFrames * kBytesPerLine, std::move(stop));
  if (!packets.end.is_success()) {
    throw_bad(file, str("cannot be read to its end: ", describe(packets.end)));
  }
  info.num_frames = count_packets(packets.output);
  if (info.num_frames < 1 || info.num_frames > kMaxFrames) {
    throw_bad(file, str("has ", info.num_frames, " frames, wanted 1 to ", kMaxFrames));
  }
  return info;
}

struct VideoReader::Impl {
  Path file;
  std::size_t frame_bytes = 0;
  Descriptor input;
  std::optional<Process> process;
};

VideoReader::VideoReader(const Path& file,
                         const VideoInfo& info,
                         const Ffmpeg& ffmpeg,
                         std::stop_token stop)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = file;
  impl_->frame_bytes = static_cast<std::size_t>(info.size.width * info.size.height * 3);
  // The size is imposed: a stream that changes it midway still gives frames of one size.
  ProcessSpec spec =
      reader_spec(file, ffmpeg,
                  {"-an", "-sn", "-dn", "-vf",
                   str("scale=", info.size.width, ":", info.size.height,
                       ":flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"),
                   "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo"},
                  std::move(stop));
  spec.arguments.insert(spec.arguments.begin(), {"-xerror", "-err_detect", "explode"});
  impl_->input = open_regular_file(file);
  spec.input_fd = impl_->input.get();
  impl_->process.emplace(std::move(spec));
}

VideoReader::~VideoReader() = default;

bool VideoReader::read_frame(std::vector<uint8_t>& rgb) {
  rgb.resize(impl_->frame_bytes);
  std::size_t filled = 0;
  while (filled < rgb.size()) {
    const std::size_t got =
        impl_->process->read(std::as_writable_bytes(std::span(rgb)).subspan(filled));
    if (got == 0) {
      break;
    }
    filled += got;
  }
  if (filled == rgb.size()) {
    return true;
  }
  const ProcessEnd end = impl_->process->wait();
  if (!end.is_success() || filled != 0) {
    throw_bad(impl_->file, str("cannot be decoded: ", describe(end)));
  }
  return false;
}

}  // namespace fastwan::io
