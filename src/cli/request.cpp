#include "cli/request.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "base/env.h"
#include "base/json.h"
#include "base/text.h"
#include "base/text_file.h"
#include "cli/hub_cache.h"
#include "cli/machine.h"
#include "config/assign.h"
#include "config/resolve.h"
#include "config/yaml_reader.h"
#include "io/image.h"
#include "io/safetensors.h"
#include "models/layout/lora_keys.h"
#include "models/layout/tensors.h"

namespace fastwan::cli {
namespace {

constexpr int64_t kMaxPromptFileBytes = 64 << 20;
constexpr std::size_t kMaxPromptCharacters = 32'000;
constexpr config::Range kThreads{0, 4096};

void read_environment(config::Generate& settings) {
  if (const auto threads = env("FASTWAN_THREADS")) {
    settings.threads.set(config::to_int(*threads, kThreads, "FASTWAN_THREADS"),
                         config::Origin::kEnvironment);
  }
  constexpr const char* kBackend = "FASTVIDEO_ATTENTION_BACKEND";
  if (const auto backend = env(kBackend)) {
    settings.attention_backend.set(config::to_enum<config::AttentionBackend>(*backend, kBackend),
                                   config::Origin::kEnvironment);
  }
}

void check_prompt(const std::string& prompt, const std::string& where) {
  if (!is_valid_utf8(prompt)) {
    throw InvalidInput(Code::kBadValue, where + " is not valid UTF-8");
  }
  const auto characters =
      static_cast<std::size_t>(std::count_if(prompt.begin(), prompt.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
      }));
  if (characters > kMaxPromptCharacters) {
    throw InvalidInput(Code::kBadValue, str(where, " has ", characters, " characters, at most ",
                                            kMaxPromptCharacters, " are taken"));
  }
}

std::vector<std::string> read_prompt_file(const Path& file) {
  std::vector<std::string> prompts;
  int64_t number = 0;
  for (const std::string& line : split(read_text_file(file, kMaxPromptFileBytes), '\n')) {
    ++number;
    const std::string prompt(trim(line));
    if (!prompt.empty()) {
      check_prompt(prompt, str(escape_control(file.string()), ":", number));
      prompts.push_back(prompt);
    }
  }
  if (prompts.empty()) {
    throw InvalidInput(Code::kBadValue,
                       str("--prompt-file ", escape_control(file.string()), " holds no prompt"));
  }
  return prompts;
}

void derive_size_from_image(config::Generate& settings,
                            const config::ModelFacts& facts,
                            const std::optional<config::Preset>& own) {
  config::Generate resolved = settings;
  config::resolve(resolved, facts, own);  // refuses an image where it has no use
  const auto is_users = [](const config::Setting<int64_t>& side) {
    return side.is_set && side.origin >= config::Origin::kConfigFile;
  };
  if (is_users(settings.width) || is_users(settings.height)) {
    return;
  }
  const io::FrameSize image = io::read_image_size(*settings.image);
  const config::Size size = config::best_output_size(
      {image.width, image.height}, *resolved.width * *resolved.height, facts.size_multiple);
  settings.width.set(size.width, settings.image.origin);
  settings.height.set(size.height, settings.image.origin);
}

}  // namespace

std::vector<std::string> read_sources(
    config::Generate& settings,
    const std::string& config_file,
    const std::vector<std::pair<std::string, std::string>>& overrides) {
  std::vector<std::string> warnings;
  const std::string file = config_file.empty() ? env("FASTWAN_CONFIG").value_or("") : config_file;
  if (!file.empty()) {
    warnings = config::read_run_file(file, settings);
  }
  read_environment(settings);
  for (const auto& [key, value] : overrides) {
    config::apply_override(key, value, settings);
  }
  return warnings;
}

// Of the files that are there: a missing one is told later, with all other inputs.
std::vector<io::WeightFiles> open_loras(const std::vector<std::string>& loras) {
  std::vector<io::WeightFiles> opened;
  for (const std::string& lora : loras) {
    const Path file = layout::read_lora_choice(lora).file;
    if (std::filesystem::exists(file)) {
      opened.push_back(io::WeightFiles::open(file));
    }
  }
  return opened;
}

bool has_gates(const io::WeightFiles& weights) {
  const std::vector<std::string> names = weights.names();
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.find(layout::kGateName) != std::string::npos;
  });
}

bool has_gates(const Path& weights) {
  return has_gates(io::WeightFiles::open(weights));
}

// Of the weights, or of adapters that were trained with gates.
void find_gates(layout::ModelFolder& model, const std::vector<std::string>& loras) {
  const std::vector<io::WeightFiles> adapters = open_loras(loras);
  const bool from_loras =
      std::any_of(adapters.begin(), adapters.end(),
                  [](const io::WeightFiles& weights) { return has_gates(weights); });
  model.transformer_config.is_gated = from_loras || has_gates(model.transformer);
  if (model.transformer_2) {
    model.transformer_2_config->is_gated = from_loras || has_gates(*model.transformer_2);
  }
}

layout::ModelFolder open_model(const config::Generate& settings) {
  if (settings.model_path->empty()) {
    throw InvalidInput(Code::kUsage,
                       "--model-path is missing: a Diffusers folder, a cached hub id (org/name) or "
                       "one transformer file");
  }
  layout::ModelFolder model = layout::open_model_folder(
      find_model(*settings.model_path, *settings.revision), {.transformer = *settings.transformer,
                                                             .vae = *settings.vae,
                                                             .text_encoder = *settings.text_encoder,
                                                             .tokenizer = *settings.tokenizer});
  find_gates(model, *settings.lora);
  return model;
}

config::ModelFacts facts_of(const layout::ModelFolder& model) {
  config::ModelFacts facts{.class_name = model.class_name,
                           .vae_z = model.vae_config.z_dim,
                           .layers = model.transformer_config.num_layers,
                           .width = model.transformer_config.width(),
                           .is_gated = model.transformer_config.is_gated,
                           .has_transformer_2 = model.transformer_2.has_value(),
                           .takes_image = model.expand_timesteps,
                           .size_multiple = model.size_multiple(),
                           .frames_per_latent = model.vae_config.scale_factor_temporal,
                           .boundary_ratio = model.boundary_ratio};
  if (model.scheduler) {
    facts.scheduler_shift = model.scheduler->flow_shift;
    facts.scheduler_class = model.scheduler->class_name;
  }
  return facts;
}

std::optional<config::Preset> folder_preset(const layout::ModelFolder& model) {
  const Path file = model.folder / "fastwan.json";
  if (!std::filesystem::exists(file)) {
    return std::nullopt;
  }
  return config::preset_from_json(read_json_file(file.string()), file.string());
}

namespace {

// What the model's folder says of how it wants to be sampled, and what its adapters change of that.
struct OwnSampling {
  std::string class_name;
  std::optional<config::Preset> preset;
};

OwnSampling own_sampling(const layout::ModelFolder& model, const std::vector<std::string>& loras) {
  OwnSampling out{.class_name = model.class_name, .preset = folder_preset(model)};
  const Path file = model.folder / "fastwan.json";
  Json preset = out.preset ? read_json_file(file.string()) : Json::object();
  for (const io::WeightFiles& adapters : open_loras(loras)) {
    for (const io::SafetensorsFile& part : adapters.files()) {
      const auto found = part.metadata().find(layout::kLoraSampling);
      if (found == part.metadata().end()) {
        continue;
      }
      const std::string origin = str(part.path().string(), ", metadata ", layout::kLoraSampling);
      const Json said = parse_json(found->second, origin);
      const auto class_name = json_get_or<std::string>(said, "class_name", "", origin);
      out.class_name = class_name.empty() ? out.class_name : class_name;
      preset.merge_patch(said.contains("preset") ? said.at("preset") : Json::object());
      out.preset = config::preset_from_json(preset, origin);
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> vocabulary_notes(const layout::ModelFolder& model,
                                          const std::vector<std::string>& prompts) {
  const Path file = model.folder / "fastwan.json";
  if (!std::filesystem::exists(file)) {
    return {};
  }
  const auto known = json_get_or<std::vector<std::string>>(read_json_file(file.string()),
                                                           "vocabulary", {}, file.string());
  std::set<std::string> unknown;
  for (const std::string& prompt : prompts) {
    for (const std::string& word : split(to_lower(replace_all(prompt, ",", " ")), ' ')) {
      if (!word.empty() && std::find(known.begin(), known.end(), word) == known.end()) {
        unknown.insert(escape_control(word));
      }
    }
  }
  if (known.empty() || unknown.empty()) {
    return {};
  }
  constexpr std::size_t kMaxListed = 10;
  const std::vector<std::string> listed(unknown.begin(), unknown.end());
  return {str("this model has not learned: ", join_first(listed, kMaxListed),
              ". It knows: ", join_first(known, known.size()))};
}

std::vector<std::string> collect_prompts(const config::Generate& settings) {
  const bool has_prompt = settings.prompt.is_set;
  const bool has_file = settings.prompt_file.is_set;
  if (has_prompt && has_file && settings.prompt.origin == settings.prompt_file.origin) {
    throw InvalidInput(Code::kConflict,
                       "--prompt and --prompt-file both say what to show; give one");
  }
  if (has_file && (!has_prompt || settings.prompt_file.origin > settings.prompt.origin)) {
    return read_prompt_file(*settings.prompt_file);
  }
  if (has_prompt) {
    for (const std::string& prompt : *settings.prompt) {
      check_prompt(prompt, "--prompt");
      if (trim(prompt).empty()) {
        throw InvalidInput(Code::kUsage, "--prompt is empty: say what to show");
      }
    }
    return *settings.prompt;
  }
  if (settings.prompt_embeds.is_set || settings.load_latents.is_set) {
    return {""};
  }
  throw InvalidInput(Code::kUsage, "--prompt is missing: say what to show");
}

std::vector<std::string> resolve_request(config::Generate& settings,
                                         const layout::ModelFolder& model) {
  const OwnSampling own = own_sampling(model, *settings.lora);
  config::ModelFacts facts = facts_of(model);
  facts.class_name = own.class_name;
  if (settings.image.is_set) {
    derive_size_from_image(settings, facts, own.preset);
  }
  return config::resolve(settings, facts, own.preset);
}

std::optional<std::size_t> gpu_index(const std::string& device) {
  if (device == "auto" || device == "cpu") {
    return std::nullopt;
  }
  const std::string prefix = "cuda:";
  std::optional<int64_t> index;
  if (device == "cuda") {
    index = 0;
  } else if (device.starts_with(prefix)) {
    index = parse_int(std::string_view(device).substr(prefix.size()));
  }
  if (!index || *index < 0) {
    config::throw_bad_value("--device", "auto, cpu, cuda or cuda:i", device);
  }
  return static_cast<std::size_t>(*index);
}

void check_device(const std::string& device) {
  const std::optional<std::size_t> index = gpu_index(device);
  if (!index) {
    return;
  }
  const GpuSurvey survey = survey_gpus();
  if (*index < survey.gpus.size()) {
    return;
  }
  std::string there = survey.has_driver ? "the driver shows no GPU" : "no NVIDIA driver is here";
  for (std::size_t i = 0; i < survey.gpus.size(); ++i) {
    there = str(i == 0 ? "there are" : there + ",", " cuda:", i, " ", survey.gpus[i].name);
  }
  throw DeviceError(Code::kNoGpu,
                    str("--device ", device, ": ", there,
                        ". --device cpu works everywhere; `fastwan doctor` tells more"));
}

void check_inputs_exist(const config::Generate& settings) {
  struct Input {
    const char* flag;
    std::string file;
  };
  std::vector<Input> inputs = {{"--image", *settings.image},
                               {"--noise", *settings.noise},
                               {"--prompt-embeds", *settings.prompt_embeds},
                               {"--load-latents", *settings.load_latents}};
  for (const std::string& lora : *settings.lora) {
    inputs.push_back({"--lora", layout::read_lora_choice(lora).file});
  }
  for (const Input& input : inputs) {
    std::error_code ignored;
    if (!input.file.empty() && !std::filesystem::exists(input.file, ignored)) {
      throw IoError(Code::kNotFound,
                    str(input.flag, " ", escape_control(input.file), ": no such file"));
    }
  }
}

}  // namespace fastwan::cli
