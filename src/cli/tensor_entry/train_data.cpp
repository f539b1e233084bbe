// What a training run reads: rows or procedural clips, captions as embeddings, the unconditional
// text.
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/ops/zeros.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/tensor_entry/train_parts.h"
#include "data/latent_pool.h"
#include "data/row_source.h"
#include "data/shapes.h"
#include "data/shapes_source.h"
#include "models/umt5.h"
#include "models/wan_vae.h"
#include "text/tokenizer.h"

namespace fastwan::cli {
namespace {

namespace shapes = data::shapes;
using config::Recipe;

// Text encoder and tokenizer, loaded once and let go after the last text.
class Texts {
 public:
  Texts(const TrainContext& context, const TrainData& data)
      : tokenizer_(data.tokenizer),
        encoder_(models::load_umt5(data.folder.text_encoder, {.device = context.device})) {}
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const models::Umt5& encoder() const { return *encoder_; }

 private:
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<models::Umt5> encoder_;
};

bool makes_clips(const config::Recipe& recipe) {
  return recipe.training.data.source == config::DataSource::kShapes;
}

bool has_zero_text(const config::Recipe& recipe) {
  return recipe.method.cfg_uncond_text == config::UnconditionalText::kZero;
}

// The clips of training, and in `held_out` those of validation_loss.
void encode_clips(const TrainContext& context, const Texts& texts, TrainData& out) {
  const config::ShapesData& wanted = context.recipe.training.data.shapes;
  const config::Validation& validation = context.recipe.callbacks.validation;
  // As precise as what will train on the latents, and no more: encoding is most of the start.
  const at::ScalarType type =
      compute_type(context.recipe) == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const auto vae = models::load_wan_vae(
      out.folder.vae,
      {.dtype = type, .device = context.device, .parts = models::VaeParts::kEncoder});
  const auto encoded = [&](const shapes::IndexRange& range) {
    return data::encode_pool(
        {.format = shapes_format(context.recipe),
         .seed = static_cast<uint64_t>(wanted.seed),
         .range = range,
         .vae_batch = context.device.is_cpu() ? 16 : 64,
         .vae_device = context.device,
         .storage = context.device},
        {.vae = *vae, .text_encoder = texts.encoder(), .tokenizer = texts.tokenizer()},
        context.watch);
  };
  out.source = encoded(shapes_range(context.recipe));
  if (wants_validation_loss(context.recipe) && validation.data_path.empty()) {
    out.held_out = encoded({.first = shapes::kValidation.first, .count = validation.loss_rows});
  }
}

// Captions alone: what a method reads that makes its latents itself.
std::shared_ptr<const data::Source> captioned_clips(const TrainContext& context,
                                                    const Texts& texts) {
  const config::ShapesData& wanted = context.recipe.training.data.shapes;
  const shapes::Format format = shapes_format(context.recipe);
  const shapes::IndexRange range = shapes_range(context.recipe);
  std::vector<std::string> captions;
  for (int64_t i = 0; i < range.count; ++i) {
    captions.push_back(
        shapes::draw_scene(format, static_cast<uint64_t>(wanted.seed), range.first + i).caption);
  }
  const std::vector<at::Tensor> encoded =
      data::encode_captions(captions, texts.encoder(), texts.tokenizer(), context.device);
  std::vector<data::Example> examples;
  for (std::size_t i = 0; i < captions.size(); ++i) {
    examples.push_back(
        {.id = str("shapes-", wanted.seed, "-", range.first + static_cast<int64_t>(i)),
         .caption = captions[i],
         .latents = {},
         .text = encoded[i]});
  }
  return std::make_shared<data::MemorySource>(std::move(examples));
}

// A folder that both paths name: what is measured there is how well rows are known by heart.
void note_shared_rows(const TrainContext& context) {
  const std::string& own = context.recipe.callbacks.validation.data_path;
  const std::string& training = context.recipe.training.data.data_path;
  for (const data::DataFolder& one : data::parse_data_path(own)) {
    for (const data::DataFolder& other :
         training.empty() ? std::vector<data::DataFolder>() : data::parse_data_path(training)) {
      std::error_code error;
      if (std::filesystem::equivalent(one.folder, other.folder, error)) {
        context.on_note(str("validation_loss is of rows that training shows: ", one.folder.string(),
                            " is in callbacks.validation.data_path and in "
                            "training.data.data_path"));
      }
    }
  }
}

void open_held_out(const TrainContext& context, TrainData& out) {
  const std::string& path = context.recipe.callbacks.validation.data_path;
  if (!wants_validation_loss(context.recipe)) {
    return;
  }
  if (path.empty()) {
    if (!makes_clips(context.recipe)) {
      context.on_note(
          "there is no validation_loss: callbacks.validation.data_path names no rows for it");
    }
    return;
  }
  constexpr int64_t kCacheBytes = 1;  // rows that are read once in many steps need not be kept
  out.held_out = out.held_out_rows = data::open_row_source(path, {.cache_bytes = kCacheBytes});
  note_shared_rows(context);
}

at::Tensor zero_text(const TrainContext& context, const layout::ModelFolder& folder) {
  return at::zeros({1, folder.transformer_config.text_dim},
                   at::TensorOptions(at::kFloat).device(context.device));  // [1, text_dim]
}

at::Tensor negative_text(const TrainContext& context, const Texts& texts) {
  return data::encode_captions({context.recipe.pipeline.negative_prompt}, texts.encoder(),
                               texts.tokenizer(), context.device)
      .at(0);
}

}  // namespace

bool wants_validation_loss(const config::Recipe& recipe) {
  const config::Validation& validation = recipe.callbacks.validation;
  return recipe.method.kind == config::MethodKind::kFinetune && validation.every_steps > 0 &&
         validation.loss_rows > 0;
}

shapes::Format shapes_format(const config::Recipe& recipe) {
  const config::Data& data = recipe.training.data;
  return {.frames = data.num_frames, .height = data.num_height, .width = data.num_width};
}

shapes::IndexRange shapes_range(const config::Recipe& recipe) {
  const config::ShapesData& wanted = recipe.training.data.shapes;
  shapes::IndexRange range = shapes::kTraining;
  if (wanted.range == config::ShapesRange::kVae) {
    range = shapes::kVae;
  } else if (wanted.range == config::ShapesRange::kProbe) {
    range = shapes::kProbe;
  }
  return {.first = range.first + wanted.first_index, .count = wanted.count};
}

void check_row(const TrainData& data, int64_t row, int64_t channels, int64_t text_width) {
  const auto refuse = [&](const char* what, int64_t got, int64_t wanted, const char* whose) {
    throw InvalidInput(Code::kBadDataset, str(data.rows ? data.rows->place(row) : str("clip ", row),
                                              ": ", what, " has ", got, " channels, the ", whose,
                                              " of ", data.folder.folder.string(), " has ", wanted,
                                              ". Were these rows made with another model?"));
  };
  const int64_t latent_channels = data.folder.vae_config.z_dim;
  if (channels != 0 && channels != latent_channels) {
    refuse("the latent", channels, latent_channels, "VAE");
  }
  const int64_t text_dim = data.folder.text_encoder_config.d_model;
  if (text_width != text_dim) {
    refuse("the text embedding", text_width, text_dim, "text encoder");
  }
}

namespace {

// The size of videos that the recipe gives, as latents.
std::vector<int64_t> wanted_latent(const config::Data& wanted, const layout::ModelFolder& folder) {
  layout::check_pixels(wanted.num_height, wanted.num_width, inputs_of(folder));
  const layout::LatentSize size =
      layout::latent_size(folder, wanted.num_frames, wanted.num_height, wanted.num_width);
  return {size.channels, size.frames, size.height, size.width};
}

// Each step of the student has a state of its own in the row.
void check_states(const std::string& place,
                  const at::Tensor& timesteps,  // [K + 1]
                  const std::vector<double>& steps) {
  const auto K = static_cast<int64_t>(steps.size());
  std::string got;
  bool fits = timesteps.size(0) == K + 1;
  for (int64_t k = 0; k + 1 < timesteps.size(0); ++k) {
    const auto timestep = timesteps[k].item<double>();
    got += str(k == 0 ? "" : ", ", timestep);
    for (const double step : steps) {
      fits = fits &&
             std::abs(timestep - steps[static_cast<std::size_t>(k)]) <= std::abs(timestep - step);
    }
  }
  if (!fits) {
    throw InvalidInput(Code::kBadDataset,
                       str(place, ": the trajectory's states are at timesteps ", got,
                           ", which are not those of method.dmd_denoising_steps, one for each. "
                           "Make rows with --ode-timesteps of these"));
  }
}

void open_trajectories(const Recipe& recipe, const data::Example& first, TrainData& out) {
  if (!first.trajectory.defined()) {
    throw InvalidInput(Code::kBadDataset,
                       str(out.rows->place(0),
                           " has no trajectory, which method ode and method.regression_weight "
                           "train on. Such rows come from fastwan preprocess synth "
                           "--ode-timesteps"));
  }
  check_row(out, 0, first.trajectory.size(1), first.text.size(1));
  check_states(out.rows->place(0), first.trajectory_timesteps, student_timesteps(recipe));
  out.latent_shape = first.trajectory.sizes().slice(1).vec();
  const int64_t wanted_frames = recipe.training.data.num_latent_t;
  if (wanted_frames > 0 && out.latent_shape[1] != wanted_frames) {
    throw InvalidInput(Code::kBadDataset,
                       str(out.rows->place(0), ": the trajectory has ", out.latent_shape[1],
                           " latent frames, training.data wants ", wanted_frames,
                           ". A trajectory is one of whole clips"));
  }
}

// Rows are of one size, whatever the recipe says; the plan and the work it names go by the recipe.
void note_other_size(const TrainContext& context, const TrainData& data) {
  const config::Data& wanted = context.recipe.training.data;
  const int64_t scale = data.folder.vae_config.scale_factor_spatial;
  const int64_t height = data.latent_shape[2] * scale, width = data.latent_shape[3] * scale;
  if ((wanted.num_height > 0 && wanted.num_height != height) ||
      (wanted.num_width > 0 && wanted.num_width != width)) {
    context.on_note(str("the rows are of ", height, " x ", width,
                        " pixels, training.data.num_height and num_width say ", wanted.num_height,
                        " x ", wanted.num_width, ": trained is what the rows are"));
  }
}

void open_rows(const TrainContext& context, Content content, TrainData& out) {
  const Recipe& recipe = context.recipe;
  const config::Data& wanted = recipe.training.data;
  out.rows = data::open_row_source(wanted.data_path);
  out.num_rows = out.rows->size();
  const data::Example first = out.rows->get(0);
  if (content == Content::kTrajectory) {
    open_trajectories(recipe, first, out);
    return;
  }
  check_row(out, 0, first.latents.defined() ? first.latents.size(0) : 0, first.text.size(1));
  if (!first.latents.defined()) {
    if (content == Content::kLatents) {
      throw InvalidInput(Code::kBadDataset,
                         str(out.rows->place(0), " has no latents, which this method trains on. ",
                             first.trajectory.defined()
                                 ? "Rows of trajectories are for method ode, and for method "
                                   "distill with method.regression_weight"
                                 : "Rows of text alone are for method distill with rollout_mode "
                                   "simulate"));
    }
    out.latent_shape = wanted_latent(wanted, out.folder);
  } else {
    out.latent_shape = first.latents.sizes().vec();
    if (out.latent_shape[1] < wanted.num_latent_t) {
      throw InvalidInput(Code::kBadDataset,
                         str(out.rows->place(0), " has ", out.latent_shape[1],
                             " latent frames, training.data wants ", wanted.num_latent_t));
    }
  }
  if (wanted.num_latent_t > 0) {
    out.latent_shape[1] = wanted.num_latent_t;
  }
  if (first.latents.defined()) {
    note_other_size(context, out);
  }
}

}  // namespace

layout::TrainingInputs inputs_of(const layout::ModelFolder& folder) {
  return {.model = folder.folder.string(),
          .latent_channels = folder.vae_config.z_dim,
          .pixels_a_latent = folder.vae_config.scale_factor_spatial,
          .text_width = folder.text_encoder_config.d_model};
}

TrainData open_data(const TrainContext& context, Content content) {
  const config::Recipe& recipe = context.recipe;
  const config::Data& wanted = recipe.training.data;
  TrainData out{.folder = layout::open_model_folder(context.folder_of(context.data_model()), {})};
  if (makes_clips(recipe)) {
    const data::ShapesSource clips(shapes_format(recipe), static_cast<uint64_t>(wanted.shapes.seed),
                                   shapes_range(recipe));
    out.num_rows = clips.size();
    out.latent_shape = wanted_latent(wanted, out.folder);
  } else {
    open_rows(context, content, out);
  }
  open_held_out(context, out);
  if (makes_clips(recipe) || !has_zero_text(recipe) ||
      recipe.callbacks.validation.every_steps > 0) {
    out.tokenizer = text::open_tokenizer(out.folder.tokenizer);
    out.tokenizer->encode(recipe.pipeline.negative_prompt);  // a text that is none is refused now
  }
  return out;
}

void encode_data(const TrainContext& context, Content content, TrainData& data) {
  const config::Recipe& recipe = context.recipe;
  std::optional<Texts> texts;
  if (makes_clips(recipe) || !has_zero_text(recipe)) {  // rows bring their own embeddings
    texts.emplace(context, data);
  }
  data.unconditional =
      has_zero_text(recipe) ? zero_text(context, data.folder) : negative_text(context, *texts);
  if (!makes_clips(recipe)) {
    data.source = data.rows;
  } else if (content == Content::kLatents) {
    encode_clips(context, *texts, data);
  } else {
    data.source = captioned_clips(context, *texts);
  }
  data.tokenizer.reset();
}

}  // namespace fastwan::cli
