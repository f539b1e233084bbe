// Clips made here, encoded with the random model of tests/models.
#include "data/preprocess.h"

#include <array>
#include <fstream>

#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "data/row_source.h"
#include "data/rows.h"
#include "io/video.h"
#include "io/video_reader.h"
#include "models/wan_vae.h"
#include "support/random_model.h"

namespace fastwan::data {
namespace {

using ::testing::HasSubstr;

const std::vector<Path> kVenvs = {Path(FASTWAN_SOURCE_DIR) / ".deps/venv"};
constexpr io::FrameSize kSize{48, 40};
constexpr std::array kColours = {"red", "blue", "green", "yellow", "white"};  // known words
constexpr ClipShape kShape{.num_frames = 5, .height = 32, .width = 32, .train_fps = 8};

class Preprocess : public ::testing::Test {
 protected:
  Preprocess()
      : model_(layout::open_model_folder(testing::random_model(), {})),
        ffmpeg_(io::open_ffmpeg(kVenvs)) {}

  Path at(const std::string& name) const { return folder_.where() / name; }

  ClipInput make_clip(int64_t number, int64_t frames = 7) const {
    const std::string id = str("clip-", number);
    const auto sink =
        io::open_video(at(id + ".mp4"), {.size = kSize, .fps = 8, .crf = 10}, &ffmpeg_, {});
    std::vector<uint8_t> rgb(static_cast<std::size_t>(kSize.width * kSize.height * 3));
    for (int64_t f = 0; f < frames; ++f) {
      for (std::size_t i = 0; i < rgb.size(); ++i) {
        rgb[i] = static_cast<uint8_t>(40 + 20 * number + 5 * f + static_cast<int64_t>(i % 3) * 9);
      }
      sink->write_frame(rgb);
    }
    sink->finish();
    return {.id = id,
            .video = at(id + ".mp4"),
            .caption = str("a ", kColours[static_cast<std::size_t>(number)], " circle")};
  }

  PreprocessOptions options(const std::string& out) const {
    return {
        .rule = {.shape = kShape, .length_tolerance = 100}, .output = at(out), .rows_per_file = 2};
  }

  RowsMade run(const std::vector<ClipInput>& clips, const PreprocessOptions& with) {
    notes_.clear();
    return preprocess(clips, model_, with, kVenvs, watch_,
                      [this](const std::string& note) { notes_.push_back(note); });
  }

  TempFolder folder_;
  layout::ModelFolder model_;
  io::Ffmpeg ffmpeg_;
  Watch watch_;
  std::vector<std::string> notes_;
};

TEST_F(Preprocess, a_row_holds_the_posterior_mean_of_the_chosen_frames) {
  const std::vector<ClipInput> clips = {make_clip(0), make_clip(1), make_clip(2)};
  const RowsMade made = run(clips, options("out"));
  EXPECT_EQ(made.rows, 3);
  const auto source = open_row_source(at("out").string());
  ASSERT_EQ(source->size(), 3);
  const auto vae = models::load_wan_vae(model_.vae, {.parts = models::VaeParts::kEncoder});
  for (int64_t i = 0; i < 3; ++i) {
    const Example row = source->get(i);
    EXPECT_EQ(row.id, clips[static_cast<std::size_t>(i)].id);
    EXPECT_EQ(row.caption, clips[static_cast<std::size_t>(i)].caption);
    EXPECT_EQ(row.latents.size(1), 2);
    EXPECT_EQ(row.text.size(1), model_.transformer_config.text_dim);
    // The same frames by hand: flat colours survive cropping and resizing.
    const Path video = clips[static_cast<std::size_t>(i)].video;
    const io::VideoInfo info = io::probe_video(video, ffmpeg_, {});
    EXPECT_EQ(info.num_frames, 7);
    io::VideoReader reader(video, info, ffmpeg_, {});
    std::vector<at::Tensor> frames;
    std::vector<uint8_t> rgb;
    while (frames.size() < 5 && reader.read_frame(rgb)) {
      frames.push_back(fit_frame(rgb, info.size, kShape));
    }
    const at::Tensor expected = vae->encode(to_video(at::stack(frames))).mean.squeeze(0);
    EXPECT_TRUE(at::equal(row.latents, expected));
  }
  EXPECT_FALSE(at::equal(source->get(0).latents, source->get(1).latents));
  EXPECT_FALSE(at::equal(source->get(0).text, source->get(1).text));
}

TEST_F(Preprocess, a_run_stopped_between_rows_goes_on_and_gives_the_same_rows) {
  std::vector<ClipInput> clips;
  for (int64_t i = 0; i < 5; ++i) {
    clips.push_back(make_clip(i));
  }
  run(clips, options("whole"));
  for (int64_t stop_after = 1; stop_after < 5; ++stop_after) {
    std::stop_source source;
    watch_ = {source.get_token(), [&](const Progress& now) {
                if (now.stage == "preprocess" && now.step == stop_after) {
                  source.request_stop();
                }
              }};
    const std::string out = str("stopped-", stop_after);
    EXPECT_THROW(run(clips, options(out)), Stopped);
    watch_ = {};
    const RowsMade made = run(clips, options(out));
    EXPECT_EQ(made.rows, 5);
    EXPECT_EQ(made.rows_found, stop_after / 2 * 2);
    const auto whole = open_row_source(at("whole").string());
    const auto resumed = open_row_source(at(out).string());
    ASSERT_EQ(resumed->size(), 5);
    for (int64_t i = 0; i < 5; ++i) {
      EXPECT_EQ(resumed->get(i).id, whole->get(i).id);
      EXPECT_TRUE(at::equal(resumed->get(i).latents, whole->get(i).latents));
    }
  }
}

TEST_F(Preprocess, what_gives_no_row_is_counted_and_bad_clips_stop_or_are_skipped) {
  std::vector<ClipInput> clips = {make_clip(0, 3), make_clip(1), make_clip(2)};
  clips[2].caption = "  ";
  clips.push_back({.id = "bad", .video = at("bad.mp4"), .caption = "x"});
  std::ofstream(at("bad.mp4")) << "no video";
  clips.push_back({.id = "gone", .video = at("gone.mp4"), .caption = "x"});
  try {
    run(clips, options("out"));
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Failure& error) {
    EXPECT_EQ(error.code(), Code::kBadMedia);
    EXPECT_THAT(error.what(), HasSubstr("bad.mp4"));
  }
  PreprocessOptions skipping = options("out");
  skipping.skips_bad_rows = true;
  const RowsMade made = run(clips, skipping);
  EXPECT_EQ(made.rows, 1);
  EXPECT_EQ(made.left_out,
            (Counts{{"too short", 1}, {"no caption", 1}, {"bad_media", 1}, {"not_found", 1}}));
  EXPECT_EQ(notes_.size(), 2u);
  skipping.output = at("limited");
  skipping.max_bad_rows = 2;
  EXPECT_THROW(run(clips, skipping), InvalidInput);
}

TEST_F(Preprocess, prompts_alone_are_padded_and_images_have_their_columns) {
  PreprocessOptions texts = options("texts");
  texts.schema = io::RowSchema::kTextOnly;
  run({{.id = "prompt-0", .caption = "a red circle"}, {.id = "prompt-1", .caption = "a"}}, texts);
  const auto prompts = open_row_source(at("texts").string());
  EXPECT_EQ(prompts->get(0).text.sizes(), prompts->get(1).text.sizes());
  EXPECT_FALSE(prompts->get(0).latents.defined());

  PreprocessOptions images = options("images");
  images.schema = io::RowSchema::kI2v;
  run({make_clip(3)}, images);
  const auto rows = io::open_rows(io::parquet_files(at("images")),
                                  {.columns = io::columns_of(io::RowSchema::kI2v)});
  const io::Row row = rows->read(0);
  EXPECT_EQ(std::get<io::TensorCell>(row.at("pil_image")).shape, (std::vector<int64_t>{32, 32, 3}));
  EXPECT_EQ(std::get<io::TensorCell>(row.at("first_frame_latent")).shape,
            std::get<io::TensorCell>(row.at("vae_latent")).shape);
}

TEST_F(Preprocess, shapes_that_the_model_cannot_take_are_refused_before_any_work) {
  for (const ClipShape& shape :
       {ClipShape{.num_frames = 6, .height = 32, .width = 32, .train_fps = 8},
        ClipShape{.num_frames = 125, .height = 32, .width = 32, .train_fps = 8},
        ClipShape{.num_frames = 5, .height = 33, .width = 32, .train_fps = 8}}) {
    PreprocessOptions wrong = options("out");
    wrong.rule.shape = shape;
    EXPECT_THROW(run({{.id = "a", .video = at("a.mp4"), .caption = "x"}}, wrong), InvalidInput);
    EXPECT_FALSE(std::filesystem::exists(at("out")));
  }
}

}  // namespace
}  // namespace fastwan::data
