#include "io/video.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/text.h"
#include "io/media_metadata.h"
#include "io/media_test_support.h"
#include "io/mp4.h"

namespace fastwan::io {
namespace {

namespace fs = std::filesystem;

constexpr FrameSize kSize{64, 48};
constexpr int64_t kNumFrames = 9;
const std::string kMetadata =
    "{\n  \"prompt\": \"a \\\"red\\\" kite; x=1 #2 \\\\ <b>&amp;</b> \xE6\xB5\xB7\",\n  "
    "\"seed\": 7\n}";

// A gradient that moves.
std::vector<uint8_t> gradient_frame(FrameSize size, int64_t index) {
  std::vector<uint8_t> rgb;
  for (int64_t y = 0; y < size.height; ++y) {
    for (int64_t x = 0; x < size.width; ++x) {
      rgb.push_back(static_cast<uint8_t>(40 + x * 2 + index * 3));
      rgb.push_back(static_cast<uint8_t>(200 - y * 2));
      rgb.push_back(static_cast<uint8_t>(90 + (x + y) / 2));
    }
  }
  return rgb;
}

VideoFormat small_format(std::string metadata = {}) {
  return {.size = kSize, .fps = 16, .metadata = std::move(metadata)};
}

void write_video(const Path& to, const VideoFormat& format, int64_t num_frames = kNumFrames) {
  const std::unique_ptr<VideoSink> sink = open_video(to, format, &test_ffmpeg(), {});
  for (int64_t i = 0; i < num_frames; ++i) {
    sink->write_frame(gradient_frame(format.size, i));
  }
  sink->finish();
}

std::set<std::string> names_in(const Path& folder) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// All frames, as rgb24, one after the other.
std::string decode(const Path& file) {
  ProcessResult result = run_process(decoder_spec(test_ffmpeg(),
                                                  {"-i", file.string(), "-fps_mode", "passthrough",
                                                   "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"},
                                                  {}),
                                     int64_t{1} << 28);
  EXPECT_TRUE(result.end.is_success()) << result.end.error_text;
  return std::move(result.output);
}

double psnr(const std::string& frames, FrameSize size) {
  const auto frame_bytes = static_cast<std::size_t>(size.width * size.height * 3);
  double squares = 0.0;
  for (std::size_t i = 0; i < frames.size() / frame_bytes; ++i) {
    const std::vector<uint8_t> wanted = gradient_frame(size, static_cast<int64_t>(i));
    for (std::size_t k = 0; k < frame_bytes; ++k) {
      const double off = static_cast<unsigned char>(frames[i * frame_bytes + k]) - wanted[k];
      squares += off * off;
    }
  }
  return 10.0 * std::log10(255.0 * 255.0 * static_cast<double>(frames.size()) / squares);
}

template <class Action>
void expect_failure(Code code, std::string_view words, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "must throw";
  } catch (const Failure& error) {
    EXPECT_EQ(info(error.code()).name, std::string(info(code).name)) << error.what();
    EXPECT_NE(std::string_view(error.what()).find(words), std::string_view::npos) << error.what();
  }
}

// The first four bytes of each top-level box's type, from ISO/IEC 14496-12.
std::vector<std::string> top_level_boxes(const std::string& file) {
  std::vector<std::string> kinds;
  for (std::size_t at = 0; at + 8 <= file.size();) {
    kinds.push_back(file.substr(at + 4, 4));
    at += std::max<std::size_t>(8, big_endian(std::string_view(file).substr(at, 4)));
  }
  return kinds;
}

TEST(Video, Mp4HoldsTheFramesInBt709WithItsIndexFirst) {
  TempFolder folder;
  const Path to = folder.where() / "clip.mp4";
  write_video(to, small_format());
  EXPECT_EQ(names_in(folder.where()), std::set<std::string>{"clip.mp4"});
  const std::string frames = decode(to);
  EXPECT_EQ(frames.size(), static_cast<std::size_t>(kSize.width * kSize.height * 3 * kNumFrames));
  EXPECT_GT(psnr(frames, kSize), 35.0);
  const std::string bytes = read_file(to);
  EXPECT_EQ(top_level_boxes(bytes), (std::vector<std::string>{"ftyp", "moov", "free", "mdat"}));
  // colr box: nclx, primaries, transfer and matrix 1 = BT.709
  EXPECT_NE(bytes.find(std::string("colrnclx\0\1\0\1\0\1", 14)), std::string::npos);
}

TEST(Video, TheSameFramesGiveTheSameBytes) {
  TempFolder folder;
  for (const char* extension : {".mp4", ".webm", ".gif", ".webp", ".png", ".jpg"}) {
    const Path a = folder.where() / str("a", extension);
    const Path b = folder.where() / str("b", extension);
    const int64_t count =
        extension == std::string(".png") || extension == std::string(".jpg") ? 1 : 9;
    write_video(a, small_format(kMetadata), count);
    write_video(b, small_format(kMetadata), count);
    EXPECT_EQ(read_file(a), read_file(b)) << extension;
  }
}

TEST(Video, EveryFormatShowsTheFramesAndTellsAboutItsMaking) {
  TempFolder folder;
  for (const char* extension : {".mp4", ".webm", ".gif", ".webp"}) {
    const Path to = folder.where() / str("clip", extension);
    write_video(to, small_format(kMetadata));
    EXPECT_EQ(read_media_metadata(to), kMetadata) << extension;
    const std::string frames = decode(to);
    if (extension != std::string(".webp")) {  // ffmpeg before 8 decodes no animated WebP
      EXPECT_EQ(frames.size(),
                static_cast<std::size_t>(kSize.width * kSize.height * 3 * kNumFrames))
          << extension;
      EXPECT_GT(psnr(frames, kSize), extension == std::string(".gif") ? 20.0 : 35.0) << extension;
    }
    write_video(to, small_format());
    EXPECT_EQ(read_media_metadata(to), std::nullopt) << extension;
    EXPECT_EQ(read_file(to).find("kite"), std::string::npos) << extension;
  }
}

TEST(Video, PngFramesAreExactAndNeedNoFfmpeg) {
  TempFolder folder;
  const Path to = folder.where() / "clip.png";
  const std::unique_ptr<VideoSink> sink = open_video(to, small_format(kMetadata), nullptr, {});
  for (int64_t i = 0; i < 3; ++i) {
    sink->write_frame(gradient_frame(kSize, i));
  }
  sink->finish();
  EXPECT_EQ(names_in(folder.where()).count("clip_0001.png"), 1U);
  for (const Path& file : video_files(to, /*num_frames=*/3)) {
    EXPECT_TRUE(std::filesystem::exists(file)) << file;
  }
  for (int64_t i = 0; i < 3; ++i) {
    const std::vector<uint8_t> wanted = gradient_frame(kSize, i);
    EXPECT_EQ(decode(numbered_frame(to, i + 1)), std::string(wanted.begin(), wanted.end()));
    EXPECT_EQ(read_media_metadata(numbered_frame(to, i + 1)), kMetadata);
  }
}

TEST(Video, OneFrameTakesTheNameItself) {
  TempFolder folder;
  for (const char* extension : {".png", ".jpg"}) {
    const Path to = folder.where() / str("still", extension);
    write_video(to, small_format(kMetadata), 1);
    EXPECT_GT(psnr(decode(to), kSize), 35.0) << extension;
    EXPECT_EQ(read_media_metadata(to), kMetadata) << extension;
  }
  EXPECT_EQ(names_in(folder.where()), (std::set<std::string>{"still.jpg", "still.png"}));
}

TEST(Video, JpegFramesSurviveAPercentSignInTheFolder) {
  TempFolder folder;
  const Path odd = folder.where() / "50%d off";
  fs::create_directory(odd);
  write_video(odd / "a:b.jpg", small_format(), 2);
  EXPECT_EQ(names_in(odd), (std::set<std::string>{"a:b_0001.jpg", "a:b_0002.jpg"}));
  EXPECT_EQ(video_files(odd / "a:b.jpg", 2),
            (std::vector<Path>{odd / "a:b_0001.jpg", odd / "a:b_0002.jpg"}));
  EXPECT_EQ(video_files("still.JPG", 1), std::vector<Path>{"still.JPG"});
  EXPECT_EQ(video_files("clip.mp4", 9), std::vector<Path>{"clip.mp4"});
}

TEST(Video, LongMetadataPassesWithoutBeingAnArgument) {
  TempFolder folder;
  const std::string text = "{\"prompt\": \"" + std::string(300'000, 'x') + "\"}";
  for (const char* extension : {".mp4", ".webm", ".gif", ".webp", ".jpg", ".png"}) {
    const Path to = folder.where() / str("long", extension);
    write_video(to, small_format(text), 1);
    EXPECT_EQ(read_media_metadata(to), text) << extension;
  }
}

TEST(Video, XmpStillTellsWhenTheUserDataIsWiped) {
  TempFolder folder;
  const Path to = folder.where() / "clip.mp4";
  write_video(to, small_format(kMetadata));
  std::string bytes = read_file(to);
  const std::size_t at = bytes.find("udta");
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, 4, "free");
  std::ofstream(to, std::ios::binary) << bytes;
  EXPECT_EQ(read_media_metadata(to), kMetadata);
  EXPECT_GT(psnr(decode(to), kSize), 35.0);
}

TEST(ReadMediaMetadata, AFileCutInsideItsFirstBytesHoldsNoneOrIsRefused) {
  const TempFolder folder;
  for (const std::string& whole :
       {std::string("RIFF\x10\0\0\0WEBPVP8 ", 16), std::string("\x89PNG\r\n\x1a\n", 8),
        std::string("GIF89a"), std::string("\xff\xd8\xff\xe0"),
        std::string("\0\0\0\x10"
                    "ftypisom",
                    12)}) {
    for (std::size_t length = 0; length <= whole.size(); ++length) {
      write_durably(folder.where() / "cut", whole.substr(0, length));
      try {
        EXPECT_EQ(read_media_metadata(folder.where() / "cut"), std::nullopt);
      } catch (const InvalidInput& e) {
        EXPECT_EQ(e.code(), Code::kBadMedia) << e.what();
      }
    }
  }
}

TEST(Video, RefusesWhatItCannotWrite) {
  TempFolder folder;
  const auto open = [&](const char* name, FrameSize size, const Ffmpeg* ffmpeg) {
    open_video(folder.where() / name, {.size = size, .fps = 16}, ffmpeg, {});
  };
  expect_failure(Code::kBadValue, ".avi", [&] { open("clip.avi", kSize, &test_ffmpeg()); });
  expect_failure(Code::kBadValue, "even width and height, got 63 x 48", [&] {
    open("clip.mp4", {63, 48}, &test_ffmpeg());
  });
  expect_failure(Code::kBadValue, "sides", [&] { open("clip.png", {0, 48}, nullptr); });
  expect_failure(Code::kMissingProgram, "ffmpeg", [&] { open("clip.mp4", kSize, nullptr); });
  expect_failure(Code::kNotFound, "no/such", [&] { open("no/such/clip.png", kSize, nullptr); });
  EXPECT_TRUE(names_in(folder.where()).empty());
}

TEST(Video, OddSizesArePossibleOutsideOfMp4) {
  TempFolder folder;
  const FrameSize odd{63, 47};
  for (const char* extension : {".webm", ".gif", ".png", ".jpg"}) {
    const Path to = folder.where() / str("odd", extension);
    write_video(to, {.size = odd, .fps = 16}, 1);
    EXPECT_EQ(decode(to).size(), static_cast<std::size_t>(63 * 47 * 3)) << extension;
  }
}

TEST(Video, NothingIsLeftWithoutFinish) {
  TempFolder folder;
  for (const char* extension : {".mp4", ".png", ".jpg", ".gif"}) {
    const Path to = folder.where() / str("clip", extension);
    const std::unique_ptr<VideoSink> sink = open_video(to, small_format(), &test_ffmpeg(), {});
    sink->write_frame(gradient_frame(kSize, 0));
  }
  EXPECT_TRUE(names_in(folder.where()).empty());
}

TEST(Video, AnOldFileStaysUntilTheNewOneIsWhole) {
  TempFolder folder;
  const Path to = folder.where() / "clip.mp4";
  std::ofstream(to) << "old";
  {
    const std::unique_ptr<VideoSink> sink = open_video(to, small_format(), &test_ffmpeg(), {});
    sink->write_frame(gradient_frame(kSize, 0));
    EXPECT_EQ(read_file(to), "old");
  }
  EXPECT_EQ(read_file(to), "old");
  write_video(to, small_format());
  EXPECT_NE(read_file(to), "old");
}

TEST(Video, AKilledEncoderIsNamedWithItsSignalAndLeavesNothing) {
  TempFolder folder;
  TempFolder tools;
  const Ffmpeg fake{.program = write_script(tools.where() / "ffmpeg",
                                            "head -c 100 >/dev/null; echo begun; kill -9 $$"),
                    .version = "0"};
  expect_failure(Code::kEncoderFailed, "was killed by signal 9", [&] {
    const auto sink = open_video(folder.where() / "clip.mp4", small_format(), &fake, {});
    for (int i = 0; i < 1000; ++i) {
      sink->write_frame(gradient_frame(kSize, 0));
    }
    sink->finish();
  });
  EXPECT_TRUE(names_in(folder.where()).empty());
}

TEST(Video, AnEncoderThatWritesNothingIsAFailure) {
  TempFolder folder;
  TempFolder tools;
  const Ffmpeg fake{.program = write_script(tools.where() / "ffmpeg", "cat >/dev/null")};
  expect_failure(Code::kEncoderFailed, "wrote no file", [&] {
    const auto sink = open_video(folder.where() / "clip.mp4", small_format(), &fake, {});
    sink->write_frame(gradient_frame(kSize, 0));
    sink->finish();
  });
}

// Files of at most `bytes` in this process and its children, for one scope.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    old_ = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, old_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  sighandler_t old_ = nullptr;
};

// Noise does not compress: every file passes the limit, in the middle of a frame.
TEST(Video, AFullDiskIsSaidSoAndLeavesNothing) {
  TempFolder folder;
  constexpr FrameSize kLarge{256, 240};
  std::vector<uint8_t> noise(static_cast<std::size_t>(kLarge.width * kLarge.height * 3));
  std::mt19937 random(1);
  std::generate(noise.begin(), noise.end(), [&] { return static_cast<uint8_t>(random()); });
  for (const rlim_t bytes : {150, 20'000}) {
    const FileSizeLimit limit(bytes);
    for (const char* extension : {".mp4", ".webm", ".gif", ".webp", ".png", ".jpg"}) {
      expect_failure(Code::kDiskFull, "Raise `ulimit -f`", [&] {
        const auto sink = open_video(folder.where() / str("clip", extension),
                                     {.size = kLarge, .fps = 16}, &test_ffmpeg(), {});
        for (int i = 0; i < 3; ++i) {
          sink->write_frame(noise);
        }
        sink->finish();
        ADD_FAILURE() << extension << " in " << bytes << " bytes";
      });
    }
  }
  EXPECT_TRUE(names_in(folder.where()).empty());
}

TEST(Video, AStopEndsTheEncoder) {
  TempFolder folder;
  std::stop_source stop;
  const auto sink =
      open_video(folder.where() / "clip.mp4", small_format(), &test_ffmpeg(), stop.get_token());
  sink->write_frame(gradient_frame(kSize, 0));
  stop.request_stop();
  EXPECT_THROW(sink->write_frame(gradient_frame(kSize, 1)), Stopped);
}

}  // namespace
}  // namespace fastwan::io
