// Runs on procedural clips: vae, text, features. Each network is small and is one unit.
#include <utility>

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/tensor_entry/train_parts.h"
#include "data/shapes_source.h"
#include "models/checkpoint.h"
#include "models/shape_features.h"
#include "models/umt5.h"
#include "models/wan_vae.h"
#include "text/tokenizer.h"
#include "training/attribute_methods.h"
#include "training/random_start.h"
#include "training/vae_method.h"

namespace fastwan::cli {
namespace {

using config::Recipe;

constexpr const char* kStudent = "student";
constexpr const char* kFeaturesFile = "model.safetensors";

uint64_t seed_of(const Recipe& recipe) {
  return static_cast<uint64_t>(recipe.training.data.seed);
}

bool is_random(const Recipe& recipe) {
  return recipe.models.at(kStudent).init == config::WeightsInit::kRandom;
}

layout::ModelFolder open_student(const TrainContext& context) {
  return layout::open_model_folder(context.folder_of(context.recipe.models.at(kStudent).init_from),
                                   {});
}

std::shared_ptr<training::Units> units_of(const TrainContext& context,
                                          const torch::nn::Module& module) {
  return std::make_shared<training::Units>(
      module, training::one_unit(module),
      training::UnitsOptions{.compute = compute_type(context.recipe), .device = context.device},
      context.mesh);
}

std::shared_ptr<const data::ShapesSource> clips(const Recipe& recipe, data::ShapesWindow window) {
  return std::make_shared<data::ShapesSource>(
      shapes_format(recipe), static_cast<uint64_t>(recipe.training.data.shapes.seed),
      shapes_range(recipe), window);
}

// What the method reads of its clips.
std::shared_ptr<const data::ShapesSource> source_of(const Recipe& recipe) {
  const int64_t crop = recipe.training.data.shapes.crop_frames;
  switch (recipe.method.kind) {
    case config::MethodKind::kVae:
      return clips(recipe, {.frames = crop > 0 ? crop : data::ShapesWindow::kAll});
    case config::MethodKind::kText:
      return clips(recipe, {.frames = 0});
    default:
      return clips(recipe, {});
  }
}

// The clips' attributes as classes: [b, 6] int64.
at::Tensor labels_of(const data::ShapesSource& source, const std::vector<int64_t>& rows) {
  const auto b = static_cast<int64_t>(rows.size());
  const at::Tensor labels =
      at::empty({b, static_cast<int64_t>(data::shapes::kNumAttributes)}, at::kLong);
  auto* out = labels.mutable_data_ptr<int64_t>();
  for (const int64_t row : rows) {
    for (const int64_t label : data::shapes::labels_of(source.scene(row).attributes)) {
      *out++ = label;
    }
  }
  return labels;
}

enum class Labels { kNone, kAttributes };

TrainSetup setup_on(const TrainContext& context,
                    const std::shared_ptr<const data::ShapesSource>& source,
                    Labels labels) {
  TrainSetup setup{.source = source};
  setup.prepare = [source, labels, device = context.device](const data::Batch& batch) {
    return training::MicroBatch{
        .latents = {},
        .text = {},
        .slots = batch.slots,
        .pixels =
            batch.latents.defined() ? data::as_pixels(batch.latents.to(device)) : at::Tensor(),
        .labels = labels == Labels::kAttributes ? labels_of(*source, batch.rows).to(device)
                                                : at::Tensor(),
        .captions = batch.captions};
  };
  return setup;
}

ShapesExport own_export(const TrainContext& context, const Path& base, const Path& to) {
  ShapesExport out{.recipe = context.recipe,
                   .device = context.device,
                   .watch = context.watch,
                   .options = export_options(context.recipe, kStudent, base)};
  out.options.to = to;
  out.options.replaces = true;
  return out;
}

// --- vae -----------------------------------------------------------------------------------------

// Mean and deviation of the latents of the run's first clips, whole ones, by the weights that are
// exported, for the VAE's config.
std::string latent_statistics(const ShapesExport& to,
                              const std::vector<training::ExportTensor>& weights) {
  const c10::NoGradGuard no_grad;
  const Recipe& recipe = to.recipe;
  models::WanVae vae(layout::open_model_folder(to.options.base, {}).vae_config,
                     {.device = to.device, .parts = models::VaeParts::kEncoder});
  copy_values(weights, vae);
  const auto source = clips(recipe, {});
  const int64_t count = std::min(recipe.method.statistics_clips, source->size());
  constexpr int64_t kBatch = 16;
  training::LatentMoments moments;
  for (int64_t first = 0; first < count; first += kBatch) {
    to.watch.throw_if_stopped();
    const at::Tensor bytes =
        data::render_batch(*source, first, std::min(kBatch, count - first));  // [n, 3, F, P, Q]
    moments.add(vae.posterior(data::as_pixels(bytes.to(to.device))));
  }
  const Json statistics = {{"latents_mean", moments.mean()}, {"latents_std", moments.std()}};
  return statistics.dump();
}

TrainSetup setup_vae(const TrainContext& context) {
  const Recipe& recipe = context.recipe;
  const layout::ModelFolder folder = open_student(context);
  TrainSetup setup = setup_on(context, source_of(recipe), Labels::kNone);

  const auto vae = std::make_shared<models::WanVae>(
      folder.vae_config,
      models::VaeOptions{.dtype = compute_type(recipe), .device = context.device});
  const auto units = units_of(context, *vae);
  if (is_random(recipe)) {
    units->initialise([&] { training::fill_random(*vae, seed_of(recipe)); });
  } else {
    const auto exact = models::load_wan_vae(folder.vae);
    units->initialise([&] { copy_values(*exact, *vae); });
  }
  setup.method = std::make_unique<training::TrainVae>(
      vae, *units,
      training::VaeMethodOptions{.seed = seed_of(recipe),
                                 .kl_weight = recipe.method.kl_weight,
                                 .mse_weight = recipe.method.mse_weight,
                                 .trains_encoder = recipe.method.train_encoder});
  setup.write_export = [context, base = folder.folder, units](const Path& to) {
    export_shapes(own_export(context, base, to), training::weights_of(*units));
  };
  return setup;
}

// --- text, features ------------------------------------------------------------------------------

std::vector<training::Attribute> attributes() {
  std::vector<training::Attribute> all;
  for (std::size_t i = 0; i < data::shapes::kNumAttributes; ++i) {
    all.push_back({.name = data::shapes::kAttributeNames[i],
                   .num_classes = data::shapes::kAttributeSizes[i]});
  }
  return all;
}

constexpr std::string_view kEncoderPrefix = "text_encoder.";  // of the probe's weights; else heads

std::vector<training::ExportTensor> encoder_of(std::vector<training::ExportTensor> all) {
  std::erase_if(all, [](const auto& weight) { return !weight.name.starts_with(kEncoderPrefix); });
  for (training::ExportTensor& weight : all) {
    weight.name.erase(0, kEncoderPrefix.size());
  }
  return all;
}

std::vector<models::NamedTensor> heads_of(const std::vector<training::ExportTensor>& all) {
  std::vector<models::NamedTensor> heads;
  for (const training::ExportTensor& weight : all) {
    if (!weight.name.starts_with(kEncoderPrefix)) {
      heads.push_back({weight.name, weight.value().to(at::kCPU, at::kFloat)});
    }
  }
  return heads;
}

TrainSetup setup_text(const TrainContext& context) {
  const Recipe& recipe = context.recipe;
  const layout::ModelFolder folder = open_student(context);
  const std::shared_ptr<text::Tokenizer> tokenizer = text::open_tokenizer(folder.tokenizer);
  TrainSetup setup = setup_on(context, source_of(recipe), Labels::kAttributes);

  const at::ScalarType type = compute_type(recipe);
  const auto encoder = std::make_shared<models::Umt5>(
      folder.text_encoder_config, type,
      models::Umt5Options{.compute = type, .device = context.device});
  const auto probe = std::make_shared<training::TextProbe>(encoder, attributes());
  const auto units = units_of(context, *probe);
  std::shared_ptr<models::Umt5> exact;
  if (!is_random(recipe)) {
    exact = models::load_umt5(folder.text_encoder, {.held = at::kFloat});
  }
  units->initialise([&] {
    probe->initialise_heads(seed_of(recipe));
    if (exact) {
      copy_values(*exact, *encoder);
    } else {
      training::fill_random(*encoder, seed_of(recipe));
    }
  });
  setup.method = std::make_unique<training::TrainAttributes>(
      training::logits_of(
          probe, [tokenizer](const std::string& caption) { return tokenizer->encode(caption); }),
      attributes(), *units);
  setup.write_export = [context, base = folder.folder, units](const Path& to) {
    const std::vector<training::ExportTensor> weights = training::weights_of(*units);
    export_shapes(own_export(context, base, to), weights);
    // The heads are no part of the model; evaluation asks them what the encoder can tell apart.
    models::save_tensors(Path(context.recipe.training.checkpoint.output_dir) / "heads.safetensors",
                         heads_of(weights), {{"format", "pt"}});
  };
  return setup;
}

TrainSetup setup_features(const TrainContext& context) {
  const Recipe& recipe = context.recipe;
  TrainSetup setup = setup_on(context, source_of(recipe), Labels::kAttributes);
  const at::ScalarType type = compute_type(recipe);
  const auto net =
      std::make_shared<models::ShapeFeatures>(at::TensorOptions(type).device(context.device));
  const auto units = units_of(context, *net);
  if (is_random(recipe)) {
    units->initialise([&] { net->initialise(seed_of(recipe)); });
  } else {
    const auto exact = models::load_shape_features(
        context.folder_of(recipe.models.at(kStudent).init_from) / kFeaturesFile);
    units->initialise([&] { copy_values(*exact, *net); });
  }
  setup.method = std::make_unique<training::TrainAttributes>(
      [net, type](const training::MicroBatch& batch) {
        return net->logits(net->features(batch.pixels.to(type)));
      },
      attributes(), *units);
  setup.write_export = [context, units](const Path& to) {
    export_shapes(own_export(context, {}, to), training::weights_of(*units));
  };
  return setup;
}

}  // namespace

void export_shapes(const ShapesExport& to, std::vector<training::ExportTensor> weights) {
  training::ExportOptions options = to.options;
  switch (to.recipe.method.kind) {
    case config::MethodKind::kVae:
      options.component = "vae";
      if (to.recipe.method.train_encoder) {  // else the latents are what they were
        options.config = latent_statistics(to, weights);
      }
      break;
    case config::MethodKind::kText:
      options.component = "text_encoder";
      weights = encoder_of(std::move(weights));
      break;
    default: {
      models::ShapeFeatures exported;
      copy_values(weights, exported);
      training::replace_export(options.to, [&exported](const Path& unfinished) {
        models::save_shape_features(unfinished / kFeaturesFile, exported);
      });
      return;
    }
  }
  training::export_folder(weights, options);
}

TrainDraft draft_shapes(const TrainContext& context) {
  // Each loads its own: networks of this kind are small, and read in no time.
  const auto setup = [&context]() -> TrainSetup {
    const std::string folder = context.recipe.models.at(kStudent).init_from;
    context.on_note(
        str(is_random(context.recipe) ? "config from " : "loading student from ", folder));
    switch (context.recipe.method.kind) {
      case config::MethodKind::kVae:
        return setup_vae(context);
      case config::MethodKind::kText:
        return setup_text(context);
      default:
        return setup_features(context);
    }
  };
  const auto source = source_of(context.recipe);
  return {.data_digest = source->digest(), .num_rows = source->size(), .load = setup};
}

}  // namespace fastwan::cli
