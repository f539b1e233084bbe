#include "models/layout/model_folder.h"

#include <filesystem>

#include "base/check.h"
#include "base/text.h"
#include "models/layout/published.h"

namespace fastwan::layout {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

Json read_config(const Path& file) {
  return parse_json(read_file(file, kMaxConfigBytes), file.string());
}

bool is_there(const Path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// config.json of a component folder, or of the folder that holds a single file.
Json component_config(const Path& component, const char* flag) {
  const Path folder =
      std::filesystem::is_directory(component) ? component : component.parent_path();
  const Path file = folder / "config.json";
  if (!is_there(file)) {
    throw IoError(
        Code::kNotFound,
        str(file.string(),
            " is missing. Is the model folder complete? Another place can be given with ", flag));
  }
  return read_config(file);
}

Path require(const Path& given, const Path& own, const char* flag) {
  const Path path = given.empty() ? own : given;
  if (!is_there(path)) {
    throw IoError(
        Code::kNotFound,
        str(escape_control(path.string()),
            " is missing. Is the model folder complete? Another place can be given with ", flag));
  }
  return path;
}

// Components that neither the folder nor an override has, all named at once.
void require_components(const Path& model, const Overrides& overrides) {
  struct Component {
    const char* name;
    const Path& given;
  };
  std::vector<std::string> missing;
  for (const auto& [name, given] :
       {Component{"transformer", overrides.transformer}, Component{"vae", overrides.vae},
        Component{"text_encoder", overrides.text_encoder},
        Component{"tokenizer", overrides.tokenizer}}) {
    if (given.empty() && !is_there(model / name)) {
      missing.emplace_back(name);
    }
  }
  if (!missing.empty()) {
    throw InvalidInput(Code::kBadModel,
                       str(escape_control(model.string()), ": ", join_first(missing, 4),
                           missing.size() == 1 ? " is" : " are",
                           " missing. Is the model folder complete? Other places can be given "
                           "with --transformer, --vae, --text-encoder, --tokenizer"));
  }
}

// A component of model_index.json is real when it names a library and a class.
bool names_component(const Json& index, const char* key) {
  if (!index.contains(key)) {
    return false;
  }
  const Json& value = index.at(key);
  return value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string();
}

void read_index(const Path& file, ModelFolder& out) {
  const Json index = read_config(file);
  const std::string origin = file.string();
  out.class_name = json_get<std::string>(index, "_class_name", origin);
  if (out.class_name != "WanPipeline" && out.class_name != "WanDMDPipeline" &&
      out.class_name != "WanImageToVideoPipeline") {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(origin, ": _class_name must be WanPipeline or WanDMDPipeline, got ",
                           escape_control(out.class_name)));
  }
  if (index.contains("boundary_ratio") && index.at("boundary_ratio").is_number()) {
    out.boundary_ratio = index.at("boundary_ratio").get<double>();
  }
  out.expand_timesteps = json_get_or<bool>(index, "expand_timesteps", false, origin);
  if (names_component(index, "image_encoder")) {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(origin, ": names an image_encoder: ", kNoImageBranch));
  }
  // boundary_ratio alone proves nothing: the conversion script writes it for models with one
  // transformer too.
  if (names_component(index, "transformer_2")) {
    out.transformer_2 = file.parent_path() / "transformer_2";
  }
}

void check_fits(const ModelFolder& model) {
  if (model.transformer_config.in_channels != model.vae_config.z_dim ||
      model.transformer_config.out_channels != model.vae_config.z_dim) {
    throw InvalidInput(Code::kBadModel,
                       str(model.folder.string(), ": the transformer works on ",
                           model.transformer_config.in_channels,
                           " channels, the VAE's latents have ", model.vae_config.z_dim));
  }
  if (model.transformer_config.text_dim != model.text_encoder_config.d_model) {
    throw InvalidInput(Code::kBadModel,
                       str(model.folder.string(), ": the transformer reads text of width ",
                           model.transformer_config.text_dim, ", the text encoder writes ",
                           model.text_encoder_config.d_model));
  }
}

}  // namespace

ModelFolder open_model_folder(const Path& model, const Overrides& overrides) {
  ModelFolder out;
  out.folder = model;
  const bool is_single_file = std::filesystem::is_regular_file(model);
  if (is_single_file) {
    out.class_name = "WanPipeline";
    out.transformer = model;
  } else {
    const Path index = model / "model_index.json";
    if (!is_there(index)) {
      throw IoError(Code::kNotFound,
                    str(escape_control(index.string()),
                        " is missing: a model is a Diffusers folder, or one transformer file with "
                        "--vae, --text-encoder and --tokenizer"));
    }
    read_index(index, out);
    require_components(model, overrides);
    out.transformer = require(overrides.transformer, model / "transformer", "--transformer");
  }
  out.vae = require(overrides.vae, is_single_file ? Path("vae") : model / "vae", "--vae");
  out.text_encoder =
      require(overrides.text_encoder,
              is_single_file ? Path("text_encoder") : model / "text_encoder", "--text-encoder");
  out.tokenizer = require(overrides.tokenizer,
                          is_single_file ? Path("tokenizer") : model / "tokenizer", "--tokenizer");

  const auto origin = [](const Path& component) {
    return ((std::filesystem::is_directory(component) ? component : component.parent_path()) /
            "config.json")
        .string();
  };
  out.transformer_config =
      read_wan_dit(component_config(out.transformer, "--transformer"), origin(out.transformer));
  if (out.transformer_2) {
    out.transformer_2_config = read_wan_dit(component_config(*out.transformer_2, "--transformer"),
                                            origin(*out.transformer_2));
  }
  out.vae_config = read_wan_vae(component_config(out.vae, "--vae"), origin(out.vae));
  out.text_encoder_config =
      read_umt5(component_config(out.text_encoder, "--text-encoder"), origin(out.text_encoder));
  const Path scheduler = model / "scheduler" / "scheduler_config.json";
  if (!is_single_file && is_there(scheduler)) {
    out.scheduler = read_scheduler(read_config(scheduler), scheduler.string());
  }
  check_fits(out);
  return out;
}

LatentSize latent_size(const ModelFolder& model,
                       int64_t num_frames,
                       int64_t height,
                       int64_t width) {
  const WanVaeConfig& vae = model.vae_config;
  return {vae.z_dim, (num_frames - 1) / vae.scale_factor_temporal + 1,
          height / vae.scale_factor_spatial, width / vae.scale_factor_spatial};
}

}  // namespace fastwan::layout
