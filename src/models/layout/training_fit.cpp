#include "models/layout/training_fit.h"

#include "base/check.h"
#include "base/text.h"

namespace fastwan::layout {

void check_inputs(const TrainedNetwork& network, const TrainingInputs& inputs) {
  const auto require_same = [&](const char* what, int64_t got, int64_t wanted, const char* whose) {
    if (wanted != 0 && got != wanted) {
      throw InvalidInput(
          Code::kConflict,
          str("models.", network.role, ": ", escape_control(network.place), " takes ", what, " of ",
              got, " channels, the ", whose, " of ", escape_control(inputs.model), " makes ",
              wanted, ". The networks of a run and training.model_path must agree"));
    }
  };
  require_same("latents", network.config.in_channels, inputs.latent_channels, "VAE");
  require_same("texts", network.config.text_dim, inputs.text_width, "text encoder");
}

void check_pixels(int64_t height, int64_t width, const TrainingInputs& inputs) {
  const int64_t pixels = inputs.pixels_a_latent;
  if (pixels != 0 && (height % pixels != 0 || width % pixels != 0)) {
    throw InvalidInput(Code::kConflict,
                       str("training.data.num_height and num_width must be multiples of ", pixels,
                           ", got ", height, " and ", width));
  }
}

void check_patches(const TrainedNetwork& network, const LatentSize& latent) {
  const WanDitConfig& c = network.config;
  if (latent.frames % c.patch_t != 0 || latent.height % c.patch_h != 0 ||
      latent.width % c.patch_w != 0) {
    throw InvalidInput(
        Code::kConflict,
        str("models.", network.role, " takes latents in patches of ", c.patch_t, "x", c.patch_h,
            "x", c.patch_w, ", those of this run are ", latent.frames, "x", latent.height, "x",
            latent.width, ". Choose another height and width of the videos"));
  }
}

}  // namespace fastwan::layout
