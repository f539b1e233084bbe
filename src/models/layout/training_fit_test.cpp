#include "models/layout/training_fit.h"

#include <functional>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::layout {
namespace {

const WanDitConfig kSmall{.in_channels = 16, .text_dim = 64};
const TrainedNetwork kTeacher{.role = "teacher", .place = "t/transformer", .config = kSmall};
const TrainingInputs kInputs{
    .model = "m", .latent_channels = 16, .pixels_a_latent = 8, .text_width = 64};

std::string refusal(const std::function<void()>& check) {
  try {
    check();
  } catch (const InvalidInput& failure) {
    return str(info(failure.code()).name, ": ", failure.what());
  }
  return "";
}

TEST(TrainingFit, ANetworkOfOtherChannelsIsNamedAndUnknownOnesPass) {
  const auto told = [](TrainingInputs inputs) {
    return refusal([&] { check_inputs(kTeacher, inputs); });
  };
  EXPECT_EQ(told(kInputs), "");
  EXPECT_EQ(told({.model = "m"}), "") << "nothing is known of the model";
  TrainingInputs other = kInputs;
  other.latent_channels = 48;
  EXPECT_EQ(told(other),
            "conflict: models.teacher: t/transformer takes latents of 16 channels, the VAE of m "
            "makes 48. The networks of a run and training.model_path must agree");
  other = kInputs;
  other.text_width = 65;
  EXPECT_NE(told(other).find("takes texts of 64 channels, the text encoder of m makes 65"),
            std::string::npos)
      << told(other);
}

TEST(TrainingFit, SidesAreWholeLatentsAndWholePatches) {
  const auto pixels = [](int64_t height, int64_t width) {
    return refusal([&] { check_pixels(height, width, kInputs); });
  };
  EXPECT_EQ(pixels(480, 832), "");
  EXPECT_EQ(pixels(0, 0), "");
  for (const auto& told : {pixels(481, 832), pixels(480, 836)}) {
    EXPECT_NE(told.find("must be multiples of 8"), std::string::npos) << told;
  }
  const auto patches = [](int64_t frames, int64_t height, int64_t width) {
    return refusal([&] { check_patches(kTeacher, {16, frames, height, width}); });
  };
  EXPECT_EQ(patches(1, 2, 2), "");
  for (const auto& told : {patches(3, 3, 2), patches(3, 2, 3)}) {
    EXPECT_NE(told.find("models.teacher takes latents in patches of 1x2x2"), std::string::npos)
        << told;
  }
}

}  // namespace
}  // namespace fastwan::layout
