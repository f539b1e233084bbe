#include "io/video_reader.h"

#include <cmath>
#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "io/media_test_support.h"
#include "io/video.h"
#include "support/message_of.h"

namespace fastwan::io {
namespace {

using ::testing::HasSubstr;
using testing::message_of;

// Frame i is one grey: 30 + 10 i.
constexpr int64_t kNumFrames = 13;
double grey_of(int64_t frame) {
  return static_cast<double>(30 + 10 * frame);
}

void write_video(const Path& to, FrameSize size, int64_t fps) {
  const auto sink = open_video(to, {.size = size, .fps = fps, .crf = 10}, &test_ffmpeg(), {});
  for (int64_t i = 0; i < kNumFrames; ++i) {
    sink->write_frame(std::vector<uint8_t>(static_cast<std::size_t>(size.width * size.height * 3),
                                           static_cast<uint8_t>(grey_of(i))));
  }
  sink->finish();
}

// With the ffmpeg of the tests, as a user would.
void make(const Path& to, std::vector<std::string> words) {
  std::string line = test_ffmpeg().program.string() + " -v error -y";
  for (const std::string& word : words) {
    line += " '" + word + "'";
  }
  line += " '" + to.string() + "'";
  ASSERT_EQ(std::system(line.c_str()), 0) << line;
}

class VideoReading : public ::testing::Test {
 protected:
  Path file(const std::string& name) const { return folder_.where() / name; }
  TempFolder folder_;
};

TEST_F(VideoReading, size_rate_and_frames_come_back_from_each_container) {
  for (const char* name : {"a.mp4", "a.webm"}) {
    SCOPED_TRACE(name);
    write_video(file(name), {64, 48}, 12);
    // The name says nothing: the first bytes decide.
    std::filesystem::rename(file(name), file("clip.txt"));
    const VideoInfo info = probe_video(file("clip.txt"), test_ffmpeg(), {});
    EXPECT_EQ(info.size, (FrameSize{64, 48}));
    EXPECT_DOUBLE_EQ(info.fps, 12);
    EXPECT_EQ(info.num_frames, kNumFrames);
    VideoReader reader(file("clip.txt"), info, test_ffmpeg(), {});
    std::vector<uint8_t> rgb;
    int64_t frames = 0;
    while (reader.read_frame(rgb)) {
      ASSERT_EQ(rgb.size(), 64u * 48u * 3u);
      // H.264 and VP9 at this quality keep a flat grey within 3 of 255.
      EXPECT_NEAR(rgb[0], grey_of(frames), 3);
      EXPECT_NEAR(rgb[rgb.size() - 1], grey_of(frames), 3);
      ++frames;
    }
    EXPECT_EQ(frames, kNumFrames);
  }
}

TEST_F(VideoReading, a_reader_may_be_left_in_the_middle) {
  write_video(file("a.mp4"), {256, 256}, 16);
  const VideoInfo info = probe_video(file("a.mp4"), test_ffmpeg(), {});
  VideoReader reader(file("a.mp4"), info, test_ffmpeg(), {});
  std::vector<uint8_t> rgb;
  EXPECT_TRUE(reader.read_frame(rgb));
}

TEST_F(VideoReading, what_is_no_video_is_refused_by_name) {
  std::ofstream(file("list.mp4")) << "ffconcat version 1.0\nfile /etc/passwd\n";
  std::ofstream(file("empty.mp4"));
  std::ofstream(file("fake.mp4"), std::ios::binary) << std::string(
      "\0\0\0\x18"
      "ftypmp42\0\0\0\0mp42isom",
      24);
  for (const char* name : {"list.mp4", "empty.mp4", "fake.mp4"}) {
    EXPECT_THAT(message_of([&] { probe_video(file(name), test_ffmpeg(), {}); }, Code::kBadMedia),
                HasSubstr(name));
  }
  message_of([&] { probe_video(file("absent.mp4"), test_ffmpeg(), {}); }, Code::kNotFound);
  message_of([&] { probe_video(folder_.where(), test_ffmpeg(), {}); }, Code::kBadValue);
}

// What a phone's "trim" and `ffmpeg -ss -c copy` leave: pictures that are decoded and not shown.
TEST_F(VideoReading, frames_that_an_edit_list_cuts_off_are_not_counted) {
  write_video(file("whole.mp4"), {64, 48}, 12);
  make(file("cut.mp4"), {"-ss", "0.4", "-i", file("whole.mp4"), "-c", "copy"});
  const VideoInfo info = probe_video(file("cut.mp4"), test_ffmpeg(), {});
  EXPECT_LT(info.num_frames, kNumFrames);
  VideoReader reader(file("cut.mp4"), info, test_ffmpeg(), {});
  std::vector<uint8_t> rgb;
  int64_t frames = 0;
  while (reader.read_frame(rgb)) {
    ++frames;
  }
  EXPECT_EQ(frames, info.num_frames);
}

TEST_F(VideoReading, uneven_frames_have_their_times_and_an_average_rate) {
  write_video(file("even.mp4"), {64, 48}, 10);
  // Frames 0 to 5, then every third: 0.0 to 0.5, 0.6, 0.9, 1.2 s.
  for (const char* name : {"uneven.mp4", "uneven.mkv"}) {
    SCOPED_TRACE(name);
    make(file(name),
         {"-i", file("even.mp4"), "-vf", "select=lt(n\\,6)+not(mod(n\\,3))", "-fps_mode", "vfr"});
    const VideoInfo info = probe_video(file(name), test_ffmpeg(), {});
    ASSERT_EQ(info.num_frames, 9);
    ASSERT_EQ(info.times.size(), 9u);
    EXPECT_NEAR(info.times[5], 0.5, 1e-3);
    EXPECT_NEAR(info.times[7], 0.9, 1e-3);
    EXPECT_NEAR(info.times[8], 1.2, 1e-3);
    EXPECT_NEAR(info.fps, 9 / 1.3,
                9 / 1.3 * 0.2);  // the last frame's own time is the muxer's guess
  }
  EXPECT_TRUE(probe_video(file("even.mp4"), test_ffmpeg(), {}).times.empty());
}

TEST_F(VideoReading, other_containers_are_read_by_their_first_bytes) {
  write_video(file("a.mp4"), {64, 48}, 25);
  for (const char* name :
       {"a.avi", "a.ts", "a.m2ts", "a.mpg", "a.flv", "a.wmv", "a.y4m", "a.mxf", "a.gif"}) {
    SCOPED_TRACE(name);
    make(file(name), {"-i", file("a.mp4")});
    std::filesystem::rename(file(name), file("clip"));
    const VideoInfo info = probe_video(file("clip"), test_ffmpeg(), {});
    EXPECT_EQ(info.size, (FrameSize{64, 48}));
    EXPECT_NEAR(info.fps, 25, 0.5);
    EXPECT_EQ(info.num_frames, kNumFrames);
    VideoReader reader(file("clip"), info, test_ffmpeg(), {});
    std::vector<uint8_t> rgb;
    int64_t frames = 0;
    while (reader.read_frame(rgb)) {
      const double tolerance = std::string(name) == "a.gif" ? 25 : 6;  // a palette, dithered
      EXPECT_NEAR(rgb[0], grey_of(frames++), tolerance);
    }
    EXPECT_EQ(frames, kNumFrames);
  }
}

TEST_F(VideoReading, a_damaged_stream_is_an_error_not_fewer_frames) {
  write_video(file("a.mp4"), {64, 48}, 16);
  std::string content = read_file(file("a.mp4"));
  const VideoInfo info = probe_video(file("a.mp4"), test_ffmpeg(), {});
  for (std::size_t at = content.size() / 2; at < content.size() - 8; ++at) {
    content[at] = static_cast<char>(0xFF);  // the index comes first, these are pictures
  }
  std::ofstream(file("a.mp4"), std::ios::binary) << content;
  VideoReader reader(file("a.mp4"), info, test_ffmpeg(), {});
  std::vector<uint8_t> rgb;
  EXPECT_THAT(message_of(
                  [&] {
                    while (reader.read_frame(rgb)) {
                    }
                  },
                  Code::kBadMedia),
              HasSubstr("a.mp4"));
}

TEST_F(VideoReading, a_stop_request_ends_the_reading) {
  write_video(file("a.mp4"), {64, 48}, 16);
  const VideoInfo info = probe_video(file("a.mp4"), test_ffmpeg(), {});
  std::stop_source source;
  VideoReader reader(file("a.mp4"), info, test_ffmpeg(), source.get_token());
  source.request_stop();
  std::vector<uint8_t> rgb;
  message_of([&] { reader.read_frame(rgb); }, Code::kStopped);
}

}  // namespace
}  // namespace fastwan::io
