#include "data/frames.h"

#include <cmath>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fastwan::data {
namespace {

using ::testing::ElementsAre;

ClipRule rule_of(int64_t num_frames, double train_fps) {
  return {.shape = {.num_frames = num_frames, .height = 8, .width = 16, .train_fps = train_fps},
          .length_tolerance = 100};
}

TEST(ChooseFrames, takes_the_frames_nearest_below_the_wanted_times) {
  EXPECT_THAT(choose_frames(12, 30, rule_of(5, 16), 0).frames, ElementsAre(0, 1, 3, 5, 7));
  EXPECT_THAT(choose_frames(5, 16, rule_of(5, 16), 0).frames, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(choose_frames(4, 8, rule_of(5, 16), 0).frames, ElementsAre(0, 0, 1, 1, 2));
}

// Two seconds at 8 frames a second, one at 2: the clip has the video's pace, not its frames' count.
TEST(ChooseFrames, frames_of_uneven_times_are_taken_by_their_times) {
  std::vector<double> times;
  for (int64_t i = 0; i < 16; ++i) {
    times.push_back(static_cast<double>(i) / 8);
  }
  times.insert(times.end(), {2.0, 2.5});
  EXPECT_THAT(choose_frames(18, 6, rule_of(9, 4), 0, times).frames,
              ElementsAre(0, 2, 4, 6, 8, 10, 12, 14, 16));
  EXPECT_THAT(choose_frames(18, 6, rule_of(11, 4), 0, times).frames,
              ::testing::IsSupersetOf({16, 17}));
  EXPECT_EQ(choose_frames(18, 6, rule_of(12, 4), 0, times).frames.size(), 12u);
  EXPECT_EQ(choose_frames(18, 6, rule_of(13, 4), 0, times).left_out, "too short");
}

// As matroska writes them, in whole milliseconds: frame 2 of 30 a second at 67, not 66.7.
TEST(ChooseFrames, times_in_milliseconds_give_the_frames_of_the_exact_ones) {
  std::vector<double> rounded;
  for (int64_t i = 0; i < 60; ++i) {
    rounded.push_back(std::round(static_cast<double>(i) * 1000 / 30) / 1000);
  }
  EXPECT_EQ(choose_frames(60, 30, rule_of(29, 15), 0, rounded).frames,
            choose_frames(60, 30, rule_of(29, 15), 0).frames);
}

TEST(ChooseFrames, a_short_video_is_left_out_or_cut_to_whole_latent_frames) {
  ClipRule rule = rule_of(9, 16);
  EXPECT_EQ(choose_frames(8, 16, rule, 0).left_out, "too short");
  EXPECT_EQ(choose_frames(9, 16, rule, 0).frames.size(), 9u);
  rule.drop_short_ratio = 0;
  EXPECT_EQ(choose_frames(8, 16, rule, 0).frames.size(), 5u);
  EXPECT_EQ(choose_frames(4, 16, rule, 0).frames.size(), 1u);
}

// Of 2000 videos a share of 0.3 is left out: standard deviation sqrt(2000 * 0.3 * 0.7) = 20.5.
TEST(ChooseFrames, the_share_of_short_videos_that_goes_is_the_one_asked_for) {
  ClipRule rule = rule_of(9, 16);
  rule.drop_short_ratio = 0.3;
  int64_t dropped = 0;
  for (int64_t number = 0; number < 2000; ++number) {
    dropped += choose_frames(8, 16, rule, number).frames.empty() ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(dropped), 600, 5 * 20.5);
}

TEST(ChooseFrames, a_long_video_is_left_out_above_the_limit) {
  ClipRule rule = rule_of(5, 16);
  rule.length_tolerance = 2;  // 10 frames at 16 a second
  EXPECT_TRUE(choose_frames(10, 16, rule, 0).left_out.empty());
  EXPECT_EQ(choose_frames(11, 16, rule, 0).left_out, "too long");
  rule.speed_factor = 1.1;
  EXPECT_TRUE(choose_frames(11, 16, rule, 0).left_out.empty());
}

TEST(ChooseFrames, a_random_window_reaches_every_start_and_depends_on_seed_and_number_alone) {
  ClipRule rule = rule_of(5, 16);
  rule.random_window = true;
  std::set<int64_t> starts;
  for (int64_t number = 0; number < 200; ++number) {
    const auto frames = choose_frames(12, 16, rule, number).frames;
    ASSERT_EQ(frames.size(), 5u);
    for (std::size_t k = 1; k < 5; ++k) {
      EXPECT_EQ(frames[k], frames[0] + static_cast<int64_t>(k));
    }
    EXPECT_EQ(frames, choose_frames(12, 16, rule, number).frames);
    starts.insert(frames[0]);
  }
  EXPECT_THAT(starts, ElementsAre(0, 1, 2, 3, 4, 5, 6));  // 12 - 5 - 1 is the last start
  EXPECT_EQ(choose_frames(5, 16, rule, 3).frames[0], 0);
}

TEST(CentreCrop, keeps_the_largest_centred_box_of_the_target_aspect) {
  EXPECT_EQ(centre_crop({1920, 1080}, 480, 832), (CropBox{0, 24, 1080, 1872}));
  EXPECT_EQ(centre_crop({480, 832}, 480, 832), (CropBox{278, 0, 276, 480}));
  EXPECT_EQ(centre_crop({832, 480}, 480, 832), (CropBox{0, 0, 480, 832}));
  EXPECT_EQ(centre_crop({9, 4}, 4, 6), (CropBox{0, 2, 4, 6}));   // 1.5 goes to the even 2
  EXPECT_EQ(centre_crop({11, 4}, 4, 6), (CropBox{0, 2, 4, 6}));  // 2.5 too
}

TEST(FitFrame, crops_before_it_resizes) {
  // 12 x 4: the outer columns are white, the middle 8 x 4 is grey.
  std::vector<uint8_t> rgb(12 * 4 * 3, 255);
  for (std::size_t y = 0; y < 4; ++y) {
    for (std::size_t x = 2; x < 10; ++x) {
      for (std::size_t c = 0; c < 3; ++c) {
        rgb[(y * 12 + x) * 3 + c] = static_cast<uint8_t>(40 + c);
      }
    }
  }
  const at::Tensor frame = fit_frame(rgb, {12, 4}, {.height = 8, .width = 16});
  EXPECT_EQ(frame.sizes(), (std::vector<int64_t>{3, 8, 16}));
  for (int64_t c = 0; c < 3; ++c) {
    EXPECT_TRUE(at::equal(frame[c], at::full({8, 16}, 40 + c, at::kByte)));
  }
}

TEST(ToVideo, bytes_become_the_range_of_the_vae) {
  const at::Tensor frames = at::full({5, 3, 2, 4}, 255, at::kByte);
  frames[1].fill_(0);
  frames[2].fill_(51);
  const at::Tensor video = to_video(frames);
  EXPECT_EQ(video.sizes(), (std::vector<int64_t>{1, 3, 5, 2, 4}));
  EXPECT_EQ(video[0][0][0][0][0].item<float>(), 1.0F);
  EXPECT_EQ(video[0][2][1][1][3].item<float>(), -1.0F);
  EXPECT_NEAR(video[0][1][2][0][0].item<float>(), -0.6F, 1e-7);
}

}  // namespace
}  // namespace fastwan::data
