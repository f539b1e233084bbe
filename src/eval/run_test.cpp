#include "eval/run.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "eval/clip_set.h"
#include "eval/similarity.h"
#include "eval/temporal.h"
#include "eval/video_set.h"
#include "io/image.h"
#include "io/video.h"
#include "models/checkpoint.h"
#include "models/shape_features.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::eval {
namespace {

using namespace data::shapes;

constexpr Format kSmall{.frames = 9, .height = 64, .width = 64};
const std::vector<Path> kVenvs = {".deps/venv"};

Code code_of(const std::function<void()>& act, const std::string& words) {
  try {
    act();
  } catch (const Failure& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    return error.code();
  }
  ADD_FAILURE() << "accepted; wanted an error with: " << words;
  return Code::kInternal;
}

// Clips [first, first + count) as one file: frames [N, F, 3, P, Q] as bytes, and their codes.
struct Clips {
  at::Tensor frames;
  std::vector<int64_t> codes;
};
Clips clips(int64_t first, int64_t count) {
  std::vector<at::Tensor> frames;
  Clips out;
  for (int64_t i = 0; i < count; ++i) {
    const Clip clip = render(kSmall, 11, first + i);
    frames.push_back(to_frames(clip));
    out.codes.push_back(code_of(clip.scene.attributes));
  }
  out.frames = at::stack(frames);
  return out;
}
void save(const Path& file, const Clips& set) {
  models::save_tensors(file, {{"frames", set.frames}, {"codes", at::tensor(set.codes, at::kLong)}});
}

class Folders : public ::testing::Test {
 protected:
  Json run_with(std::vector<std::string> metrics, const Path& features = {}) {
    return run({.videos = videos_,
                .reference = reference_,
                .metrics = std::move(metrics),
                .features = features,
                .output = output_,
                .venvs = kVenvs},
               {}, [this](const std::string& note) { notes_.push_back(note); });
  }

  TempFolder temp_;
  Path videos_ = temp_.where() / "videos.safetensors";
  Path reference_ = temp_.where() / "reference.safetensors";
  Path output_;
  std::vector<std::string> notes_;
};

TEST_F(Folders, PairsOfEqualVideosArePerfect) {
  save(videos_, clips(0, 3));
  save(reference_, clips(0, 3));
  const Json document = run_with({"psnr", "ssim", "mse"});
  EXPECT_EQ(document["metrics"]["mse"]["value"], 0);
  EXPECT_NEAR(document["metrics"]["ssim"]["value"].get<double>(), 1, 1e-9);
  EXPECT_EQ(document["metrics"]["psnr"]["count"], 0);
  EXPECT_EQ(document["metrics"]["psnr"]["value"], "infinite");  // not left out of table and page
  EXPECT_EQ(document["metrics"]["psnr"]["equal_pairs"], 3);
  EXPECT_EQ(document["pairs"].size(), 3u);
  EXPECT_EQ(document["pairs"][0]["psnr"], "infinite");
  ASSERT_EQ(notes_.size(), 1u);
}

TEST_F(Folders, PairsAreMatchedByNameAndMeasured) {
  const Clips set = clips(0, 3);
  Clips other = set;
  other.frames = (set.frames * 0.9).contiguous();
  save(videos_, other);
  save(reference_, {set.frames.slice(0, 0, 2), {set.codes[0], set.codes[1]}});
  const Json document = run_with({"psnr", "mse", "flicker"});
  const double first = psnr(other.frames[0], set.frames[0]),
               second = psnr(other.frames[1], set.frames[1]);
  EXPECT_NEAR(document["metrics"]["psnr"]["value"].get<double>(), (first + second) / 2, 1e-4);
  EXPECT_EQ(document["unpaired"], Json::array({"000002"}));
  EXPECT_NEAR(document["metrics"]["flicker"]["value"].get<double>(),
              (flicker(other.frames[0]) + flicker(other.frames[1]) + flicker(other.frames[2])) / 3,
              1e-6);
}

TEST_F(Folders, AttributesAreHeldAgainstCodes) {
  Clips set = clips(0, 6);
  set.codes[5] = (set.codes[5] + 512) % kNumCodes;  // asked for another colour
  save(videos_, set);
  save(reference_, clips(50, 2));
  const Json document = run_with({"attributes"});
  const Json& found = document["metrics"]["attributes"];
  EXPECT_EQ(found["count"], 6);
  EXPECT_EQ(found["against"], "codes");
  EXPECT_NEAR(found["colour"]["value"].get<double>(), 5.0 / 6, 1e-9);
  EXPECT_EQ(found["background"]["value"], 1);
}

TEST_F(Folders, WithoutAReferenceVideosAloneAreMeasured) {
  const Clips set = clips(0, 3);
  save(videos_, set);
  save(reference_, clips(50, 3));
  const Json with = run_with({"flicker", "attributes"});
  reference_.clear();
  output_ = temp_.where() / "report";
  const Json without = run_with({"flicker", "attributes"});
  EXPECT_EQ(without["metrics"]["attributes"], with["metrics"]["attributes"]);
  EXPECT_EQ(without["metrics"]["flicker"]["value"], with["metrics"]["flicker"]["value"]);
  EXPECT_TRUE(with["metrics"]["flicker"].contains("floor"));
  EXPECT_FALSE(without["metrics"]["flicker"].contains("floor"));
  EXPECT_TRUE(without["reference"].is_null());
  EXPECT_EQ(read_file(output_ / "report.html").find("Reference"), std::string::npos);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(Folders, WithoutAReferenceClipsWithoutCodesAreLeftOutOfAttributesAndSaid) {
  videos_ = temp_.where() / "some";
  std::filesystem::create_directory(videos_);
  save(videos_ / "asked.safetensors", clips(0, 2));
  models::save_tensors(videos_ / "found.safetensors", {{"frames", clips(2, 1).frames}});
  reference_.clear();
  EXPECT_EQ(run_with({"attributes"})["metrics"]["attributes"]["count"], 2);
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("1 of 3 videos have no codes"), std::string::npos) << notes_[0];
}

TEST_F(Folders, AttributesWithoutAPairOfOneNameAreRefused) {
  for (const auto& [folder, name] : {std::pair(&videos_, "a"), std::pair(&reference_, "b")}) {
    *folder = temp_.where() / (str("of ", name));
    std::filesystem::create_directory(*folder);
    models::save_tensors(*folder / (str(name, ".safetensors")),
                         {{"frames", clips(0, 1).frames[0]}});
  }
  EXPECT_EQ(code_of([&] { run_with({"attributes"}); }, "shares no name with"), Code::kBadMedia);
  // One of two has a partner: the other is left out, and said.
  models::save_tensors(videos_ / "b.safetensors", {{"frames", clips(0, 1).frames[0]}});
  const Json found = run_with({"attributes"})["metrics"]["attributes"];
  EXPECT_EQ(found["count"], 1);
  EXPECT_EQ(found["against"], "reference videos of the same names");
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("1 of 2 videos have no codes, nor a reference"), std::string::npos);
  // Some have codes: both are said.
  save(videos_ / "c.safetensors", clips(0, 2));
  EXPECT_EQ(run_with({"attributes"})["metrics"]["attributes"]["against"],
            "codes, else reference videos of the same names");
}

TEST_F(Folders, ReferencesThatShowNoObjectAreSaid) {
  models::save_tensors(videos_, {{"frames", clips(0, 2).frames}});
  at::Tensor grey = clips(0, 2).frames;
  grey[1].fill_(0.5);
  models::save_tensors(reference_, {{"frames", grey}});
  EXPECT_EQ(run_with({"attributes"})["metrics"]["attributes"]["count"], 1);
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("in 1 reference videos no object is seen"), std::string::npos);
}

TEST_F(Folders, WhatAMeasureRefusesIsSaidWithTheVideosName) {
  const Clips set = clips(0, 2);
  save(videos_, {set.frames.slice(1, 0, 2).contiguous(), set.codes});
  reference_.clear();
  EXPECT_EQ(code_of([&] { run_with({"flicker"}); }, "videos, 000000: flicker needs 3 frames"),
            Code::kBadTensor);
  save(videos_, {set.frames.slice(3, 0, 16).contiguous(), set.codes});
  EXPECT_EQ(code_of([&] { run_with({"attributes"}); }, "videos, 000000: procedural clips need"),
            Code::kBadValue);
  reference_ = videos_;
  save(videos_, {set.frames.slice(3, 0, 8).contiguous(), set.codes});
  EXPECT_EQ(code_of([&] { run_with({"ssim"}); }, "000000: ssim needs sides"), Code::kBadTensor);
}

TEST_F(Folders, WhatNeedsAReferenceIsNamed) {
  models::save_tensors(videos_, {{"frames", clips(0, 1).frames}});
  reference_.clear();
  EXPECT_EQ(code_of([&] { run_with({"flicker", "ssim"}); }, "--metrics ssim"), Code::kUsage);
  EXPECT_EQ(code_of([&] { run_with({"attributes"}); }, "`codes` [N]"), Code::kUsage);
  models::ShapeFeatures net;
  net.initialise(3);
  const Path weights = temp_.where() / "net.safetensors";
  models::save_shape_features(weights, net);
  EXPECT_EQ(code_of([&] { run_with({"kid"}, weights); }, "--metrics kid"), Code::kUsage);
}

TEST_F(Folders, FeaturesOfTheNetCompareSets) {
  save(videos_, clips(0, 14));
  save(reference_, clips(100, 14));
  models::ShapeFeatures net;
  net.initialise(3);
  const Path weights = temp_.where() / "net.safetensors";
  models::save_shape_features(weights, net);
  output_ = temp_.where() / "report";
  const Json document =
      run_with({"frechet", "kid", "precision", "recall", "coverage", "wasserstein"}, weights);
  EXPECT_EQ(document["metrics"].size(), 6u);
  EXPECT_EQ(document["features"]["width"], 64);
  EXPECT_EQ(document["features"]["file"], weights.string());
  for (const auto& [name, entry] : document["metrics"].items()) {
    EXPECT_TRUE(entry["value"].is_number()) << name;
    EXPECT_TRUE(entry["floor"].is_number()) << name;
  }
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("at least 256"), std::string::npos);
  const std::string html = read_file(output_ / "report.html");
  EXPECT_NE(html.find("feature net of procedural clips"), std::string::npos);
  EXPECT_NE(html.find("data:image/png;base64,"), std::string::npos);
  EXPECT_EQ(read_json_file((output_ / "report.json").string())["metrics"].size(), 6u);
}

TEST_F(Folders, FeaturesMadeElsewhereAreTakenAsTheyAre) {
  save(videos_, clips(0, 1));
  save(reference_, clips(0, 1));
  const Path file = temp_.where() / "features.safetensors";
  models::save_tensors(file, {{"videos", testing::golden_tensor("run", "a", {300, 4})},
                              {"reference", testing::golden_tensor("run", "b", {300, 4}, 1.0)}});
  const Json document = run_with({"frechet"}, file);
  EXPECT_NEAR(document["metrics"]["frechet"]["value"].get<double>(), 4.0, 0.6);
  EXPECT_LT(document["metrics"]["frechet"]["floor"].get<double>(), 0.2);
  EXPECT_TRUE(notes_.empty());
  reference_.clear();  // its features are at hand
  EXPECT_EQ(run_with({"frechet"}, file)["metrics"], document["metrics"]);
}

TEST_F(Folders, FeaturesMadeElsewhereMustBeVectors) {
  save(videos_, clips(0, 1));
  reference_.clear();
  const Path file = temp_.where() / "features.safetensors";
  const at::Tensor good = testing::golden_tensor("run", "a", {30, 4});
  const auto refused = [&](const at::Tensor& videos, const char* words) {
    models::save_tensors(file, {{"videos", videos}, {"reference", good}});
    return code_of([&] { run_with({"kid"}, file); }, words);
  };
  EXPECT_EQ(refused(at::full({}, 1.0), "videos must be [n d]"), Code::kBadTensor);
  EXPECT_EQ(refused(at::zeros({30}), "videos must be [n d]"), Code::kBadTensor);
  EXPECT_EQ(refused(at::zeros({30, 5}), "reference must be [m d]"), Code::kBadTensor);
  models::save_tensors(file, {{"videos", at::zeros({9, 0})}, {"reference", at::zeros({9, 0})}});
  EXPECT_EQ(code_of([&] { run_with({"kid"}, file); }, "no width"), Code::kBadTensor);
}

TEST_F(Folders, MistakesAreNamed) {
  save(videos_, clips(0, 1));
  save(reference_, clips(0, 1));
  EXPECT_EQ(code_of([&] { run_with({"psn"}); }, "Did you mean psnr?"), Code::kBadValue);
  EXPECT_EQ(code_of([&] { run_with({"kid"}); }, "--features"), Code::kBadValue);
  videos_ = temp_.where() / "none";
  EXPECT_EQ(code_of([&] { run_with({"psnr"}); }, "does not exist"), Code::kNotFound);
  std::filesystem::create_directory(videos_);
  EXPECT_EQ(code_of([&] { run_with({"psnr"}); }, "no video here"), Code::kBadMedia);
  save(videos_ / "a.safetensors", clips(0, 1));
  EXPECT_EQ(code_of([&] { run_with({"psnr"}); }, "share none"), Code::kBadMedia);
}

TEST_F(Folders, OneVideoHasNoInterval) {
  save(videos_, clips(0, 1));
  reference_.clear();
  output_ = temp_.where() / "report";
  const Json one = run_with({"flicker"})["metrics"]["flicker"];
  EXPECT_TRUE(one.contains("value") && !one.contains("low") && !one.contains("high")) << one;
  EXPECT_EQ(one["count"], 1);
  save(videos_, clips(0, 2));
  EXPECT_TRUE(run_with({"flicker"})["metrics"]["flicker"].contains("low"));
}

TEST_F(Folders, TooFewVideosAreNamedBeforeAnyIsDecoded) {
  models::ShapeFeatures net;
  net.initialise(3);
  const Path weights = temp_.where() / "net.safetensors";
  models::save_shape_features(weights, net);
  // Frames that the first look at them refuses.
  const auto unreadable = [](const Path& file, int64_t count) {
    models::save_tensors(file, {{"frames", at::full({count, 5, 3, 8, 8}, 2.0)}});
  };
  unreadable(reference_, 6);
  const auto few = [&](const char* metric, int64_t fewest) {
    unreadable(videos_, fewest);
    EXPECT_EQ(code_of([&] { run_with({metric}, weights); }, "from 0 to 1"), Code::kBadTensor);
    unreadable(videos_, fewest - 1);
    EXPECT_EQ(code_of([&] { run_with({metric}, weights); },
                      str("--metrics ", metric, " needs ", fewest, " videos or more in each set, ",
                          "got ", fewest - 1, " and 6")),
              Code::kBadMedia);
  };
  few("frechet", 2);
  few("kid", 3);
  few("precision", 6);
  few("recall", 6);
  few("coverage", 6);
}

TEST_F(Folders, AMissingFolderIsNamedBeforeAMissingReference) {
  videos_ = temp_.where() / "nope";
  reference_.clear();
  EXPECT_EQ(code_of([&] { run_with({"psnr"}); }, "nope"), Code::kNotFound);
  EXPECT_EQ(code_of([&] { run_with({}); }, "--metrics names no metric"), Code::kBadValue);
}

TEST_F(Folders, UnlikePairsAreRefused) {
  save(videos_, clips(0, 1));
  save(reference_, {clips(0, 1).frames.slice(1, 0, 5), {0}});
  EXPECT_EQ(code_of([&] { run_with({"psnr"}); }, "[5, 3, 64, 64]"), Code::kSizeMismatch);
}

TEST_F(Folders, StopIsHeard) {
  save(videos_, clips(0, 3));
  save(reference_, clips(0, 3));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(run({.videos = videos_, .reference = reference_, .metrics = {"flicker"}},
                   {stop.get_token(), {}}, {}),
               Stopped);
}

TEST(VideoSet, ReadsTensorsOfEveryKind) {
  const TempFolder temp;
  const at::Tensor frames = clips(0, 1).frames[0];  // [F, 3, P, Q]
  models::save_tensors(temp.where() / "float.safetensors", {{"frames", frames}});
  models::save_tensors(temp.where() / "half.safetensors", {{"frames", frames.to(at::kBFloat16)}});
  models::save_tensors(temp.where() / "bytes.safetensors",
                       {{"frames", frames.mul(255).round().to(at::kByte)}});
  models::save_tensors(temp.where() / "many.safetensors",
                       {{"frames", at::stack({frames, frames.flip({0})})}});
  const VideoSet set(temp.where(), {});
  ASSERT_EQ(set.size(), 5);
  EXPECT_EQ(set.name(0), "bytes");
  EXPECT_EQ(set.name(3), "many/000000");
  EXPECT_TRUE(testing::is_close(set.frames(0), frames, {.of_range = 1e-6, .relative_l2 = 1e-6}));
  EXPECT_TRUE(testing::is_equal(set.frames(1), frames));
  EXPECT_TRUE(testing::is_close(set.frames(2), frames, {.of_range = 4e-3, .relative_l2 = 4e-3}));
  EXPECT_TRUE(testing::is_equal(set.frames(4), frames.flip({0})));
  EXPECT_EQ(set.find("half"), 2);
  EXPECT_EQ(set.find("quarter"), std::nullopt);
  EXPECT_EQ(set.wanted(0), std::nullopt);
}

TEST(VideoSet, RefusesTensorsThatAreNoFrames) {
  const TempFolder temp;
  const Path file = temp.where() / "a.safetensors";
  const auto refused = [&](const at::Tensor& frames, const std::string& words) {
    models::save_tensors(file, {{"frames", frames}});
    return code_of([&] { VideoSet(file, {}).frames(0); }, words);
  };
  EXPECT_EQ(refused(at::zeros({5, 8, 8}), "[N, F, 3, P, Q]"), Code::kBadTensor);
  EXPECT_EQ(refused(at::zeros({5, 4, 8, 8}), "F 3 P Q"), Code::kBadTensor);
  EXPECT_EQ(refused(at::full({5, 3, 8, 8}, 2.0), "from 0 to 1"), Code::kBadTensor);
  EXPECT_EQ(refused(at::full({5, 3, 8, 8}, NAN), "from 0 to 1"), Code::kBadTensor);
  models::save_tensors(file, {{"frames", at::zeros({2, 5, 3, 8, 8})},
                              {"codes", at::tensor(std::vector<int64_t>{1, 4096}, at::kLong)}});
  EXPECT_EQ(code_of([&] { VideoSet(file, {}); }, "from 0 to 4095"), Code::kBadTensor);
  models::save_tensors(file, {{"frames", at::zeros({2, 5, 3, 8, 8})},
                              {"codes", at::tensor(std::vector<double>{1.5, 2}, at::kDouble)}});
  EXPECT_EQ(code_of([&] { VideoSet(file, {}); }, "whole numbers"), Code::kBadTensor);
  EXPECT_EQ(refused(at::zeros({0, 3, 8, 8}), "hold nothing"), Code::kBadTensor);
  EXPECT_EQ(refused(at::zeros({2, 5, 3, 0, 8}), "hold nothing"), Code::kBadTensor);
}

// Needs the ffmpeg program, as every test of media does.
TEST(VideoSet, ReadsVideosAndFoldersOfPictures) {
  const TempFolder temp;
  const io::Ffmpeg ffmpeg = io::open_ffmpeg(kVenvs);
  const Clip clip = render(kSmall, 11, 4);
  const auto sink = io::open_video(temp.where() / "clip.mp4",
                                   {.size = {64, 64}, .fps = 8, .crf = 4}, &ffmpeg, {});
  std::filesystem::create_directory(temp.where() / "pictures");
  constexpr std::size_t kFrameBytes = 64 * 64 * 3;
  for (std::size_t frame = 0; frame < 9; ++frame) {
    const std::span<const uint8_t> rgb(clip.rgb.data() + frame * kFrameBytes, kFrameBytes);
    sink->write_frame(rgb);
    io::write_png(temp.where() / "pictures" / (str("f", frame, ".png")),
                  {64, 64, {rgb.begin(), rgb.end()}});
  }
  sink->finish();
  const VideoSet set(temp.where(), {.venvs = kVenvs});
  ASSERT_EQ(set.size(), 2);
  EXPECT_EQ(set.name(1), "pictures");
  EXPECT_TRUE(testing::is_equal(set.frames(1), to_frames(clip)));
  const at::Tensor video = set.frames(0);
  EXPECT_EQ(video.sizes(), (std::vector<int64_t>{9, 3, 64, 64}));
  EXPECT_GT(psnr(video, to_frames(clip)), 25);  // chroma at half resolution
  // Half the rate: frames 0, 2, 4, 6, 8; twice: each twice.
  const VideoSet half(temp.where(), {.venvs = kVenvs, .fps = 4});
  EXPECT_TRUE(testing::is_equal(half.frames(0), video.slice(0, 0, 9, 2)));
  const VideoSet twice(temp.where(), {.venvs = kVenvs, .fps = 16});
  EXPECT_EQ(twice.frames(0).size(0), 18);
  EXPECT_TRUE(testing::is_equal(twice.frames(0).slice(0, 1, 18, 2), video));
}

TEST(VideoSet, TakesFramesOfUnevenTimesByTheirTimes) {
  const TempFolder temp;
  const io::Ffmpeg ffmpeg = io::open_ffmpeg(kVenvs);
  const Path even = temp.where() / "even.mp4", uneven = temp.where() / "uneven.mkv";
  const auto sink = io::open_video(even, {.size = {64, 48}, .fps = 10, .crf = 10}, &ffmpeg, {});
  for (int64_t i = 0; i < 13; ++i) {
    sink->write_frame(std::vector<uint8_t>(64 * 48 * 3, static_cast<uint8_t>(30 + 10 * i)));
  }
  sink->finish();
  // Frames 0 to 5 of ten a second, then every third, at 0.6, 0.9 and 1.2 s.
  const std::string line =
      str(ffmpeg.program.string(), " -v error -y -i '", even.string(),
          "' -vf 'select=lt(n\\,6)+not(mod(n\\,3))' -fps_mode vfr '", uneven.string(), "'");
  ASSERT_EQ(std::system(line.c_str()), 0) << line;
  const auto greys = [&](double fps) {
    const at::Tensor frames = VideoSet(uneven, {.venvs = kVenvs, .fps = fps}).frames(0);
    std::vector<int64_t> shown;  // of `even`, from each frame's grey
    for (int64_t i = 0; i < frames.size(0); ++i) {
      shown.push_back(std::lround((frames[i].mean().item<double>() * 255 - 30) / 10));
    }
    return shown;
  };
  EXPECT_EQ(greys(0), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 9, 12}));
  // How long the last one is shown is the file's guess.
  auto five = greys(5);
  ASSERT_GE(five.size(), 7u);
  five.resize(7);
  EXPECT_EQ(five, (std::vector<int64_t>{0, 2, 4, 6, 6, 9, 12}));
}

TEST(ClipSet, GathersScoresAndSteadiness) {
  const Clips set = clips(0, 4);
  std::vector<Attributes> wanted;
  for (const int64_t code : set.codes) {
    wanted.push_back(attributes_of(code));
  }
  ClipSet together, one_by_one;
  together.add_all(set.frames, wanted);
  for (int64_t i = 0; i < 4; ++i) {
    one_by_one.add(set.frames[i], wanted[static_cast<std::size_t>(i)]);
  }
  one_by_one.add(at::full({9, 3, 64, 64}, 0.4), wanted[0]);  // nothing is seen
  EXPECT_EQ(together.score().all_correct().value, 1);
  EXPECT_EQ(one_by_one.score().all_correct().value, 0.8);
  EXPECT_DOUBLE_EQ(together.steadiness().saturation, one_by_one.steadiness().saturation);
  EXPECT_NEAR(together.steadiness().saturation, 0.85, 0.02);
  EXPECT_EQ(together.to_json()["steadiness"]["first_frame_hue_error"], 0);
  ClipSet half_wrong;
  at::Tensor frames = set.frames.clone();
  frames[0][0].copy_(set.frames[0][0].roll({1}, {0}));  // another hue in one clip of four
  half_wrong.add_all(frames, wanted);
  EXPECT_EQ(half_wrong.steadiness().first_frame_hue_error, 0.25);
  const Json document = one_by_one.to_json();
  EXPECT_EQ(document["clips"], 5);
  EXPECT_EQ(document["found"], 4);
  EXPECT_EQ(document["all_correct"]["value"], 0.8);
}

}  // namespace
}  // namespace fastwan::eval
