#include "io/video_reader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
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

struct Signature {
  std::size_t at;
  std::string_view bytes;
  const char* demuxer;
};
constexpr std::array<Signature, 16> kSignatures = {{
    {4, "ftyp", "mov"},
    {4, "moov", "mov"},
    {4, "mdat", "mov"},
    {4, "wide", "mov"},
    {4, "free", "mov"},
    {4, "skip", "mov"},
    {0, "\x1A\x45\xDF\xA3", "matroska"},
    {8, "AVI ", "avi"},
    {0, {"\0\0\1\xBA", 4}, "mpeg"},
    {0, "\x30\x26\xB2\x75\x8E\x66\xCF\x11", "asf"},
    {0, "FLV", "flv"},
    {0, "OggS", "ogg"},
    {0, "GIF8", "gif"},
    {0, "DKIF", "ivf"},
    {0, "YUV4MPEG2", "yuv4mpegpipe"},
    {0, "\x06\x0E\x2B\x34", "mxf"},
}};

// Packets of 188 bytes that begin with G; in .m2ts files four bytes stand before each.
bool is_transport_stream(std::string_view start) {
  const auto packets = [start](std::size_t first, std::size_t size) {
    return start.size() > first + size && start[first] == 'G' && start[first + size] == 'G';
  };
  return packets(0, 188) || packets(4, 192);
}

std::string demuxer_of(const Path& file) {
  const MediaBytes bytes(file);
  if (bytes.size() == 0) {
    throw_bad(file, "is empty");
  }
  const std::string start = bytes.read_some(0, 256);
  for (const Signature& it : kSignatures) {
    if (start.size() > it.at && std::string_view(start).substr(it.at).starts_with(it.bytes)) {
      return it.demuxer;
    }
  }
  if (is_transport_stream(start)) {
    return "mpegts";
  }
  throw_bad(file,
            "its first bytes are of no video that is read here: mp4, mov, mkv, webm, avi, mpg, ts, "
            "wmv, flv, ogg, gif, mxf, ivf, y4m. Convert it with ffmpeg");
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

struct Shown {  // a frame that is shown, in seconds
  double time = 0, duration = 0;
};

// Lines "0, dts, pts, duration, bytes, crc[, F=flags]" after "#tb 0: 1/12288". What an edit list
// cuts off is in the stream and not shown: its packets are flagged, for what follows needs them.
std::vector<Shown> shown_frames(std::string_view list, bool& has_times) {
  constexpr uint64_t kDiscard = 4;  // AV_PKT_FLAG_DISCARD
  constexpr std::string_view kTimeBase = "#tb 0: ", kFlags = "F=0x";
  constexpr double kNoTime = -9e18;  // avi and MPEG leave times out; AV_NOPTS_VALUE is below
  double tick = 0;
  std::vector<Shown> shown;
  for (const std::string& line : split(list, '\n')) {
    if (line.starts_with(kTimeBase)) {
      const std::vector<std::string> parts = split(line.substr(kTimeBase.size()), '/');
      const double below = parts.size() == 2 ? parse_double(trim(parts[1])).value_or(0) : 0;
      tick = below > 0 ? parse_double(parts[0]).value_or(0) / below : 0;
    }
    if (line.empty() || line[0] == '#') {
      continue;
    }
    const std::vector<std::string> words = split(line, ',');
    bool is_shown = true;
    for (const std::string& word : words) {
      const std::string_view flags = trim(word);
      if (flags.starts_with(kFlags)) {
        const std::string hex(flags.substr(kFlags.size()));
        is_shown = (std::strtoull(hex.c_str(), nullptr, 16) & kDiscard) == 0;
      }
    }
    if (!is_shown) {
      continue;
    }
    const auto number = [&words](std::size_t i) {
      return i < words.size() ? parse_double(trim(words[i])) : std::nullopt;
    };
    has_times = has_times && tick > 0 && number(2).value_or(kNoTime) > kNoTime;
    shown.push_back({number(2).value_or(0) * tick, number(3).value_or(0) * tick});
  }
  return shown;
}

// Times of frames that are not evenly spaced by 1 / fps, and then their average rate.
void read_times(std::vector<Shown> frames, VideoInfo& info) {
  std::sort(frames.begin(), frames.end(),
            [](const Shown& a, const Shown& b) { return a.time < b.time; });
  std::vector<double> times;
  bool is_even = true;
  for (const Shown& frame : frames) {
    const double place = static_cast<double>(times.size()) / info.fps;
    times.push_back(frame.time - frames[0].time);
    is_even = is_even && std::abs(times.back() - place) < 0.5 / info.fps;
  }
  if (is_even || times.back() <= 0) {
    return;
  }
  const auto count = static_cast<double>(times.size());
  const double last =
      frames.back().duration > 0 ? frames.back().duration : times.back() / (count - 1);
  info.fps = count / (times.back() + last);
  info.times = std::move(times);
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
  bool has_times = true;
  std::vector<Shown> shown = shown_frames(packets.output, has_times);
  info.num_frames = static_cast<int64_t>(shown.size());
  if (info.num_frames < 1 || info.num_frames > kMaxFrames) {
    throw_bad(file, str("has ", info.num_frames, " frames, wanted 1 to ", kMaxFrames));
  }
  if (has_times) {
    read_times(std::move(shown), info);
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
