// From flags, files and environment to settings and a model folder; shared by generate and plan.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/generate.h"
#include "config/presets.h"
#include "models/layout/model_folder.h"

namespace fastwan::cli {

// Config file (--config, else FASTWAN_CONFIG), environment, dotted overrides. Returns warnings.
std::vector<std::string> read_sources(
    config::Generate& settings,
    const std::string& config_file,
    const std::vector<std::pair<std::string, std::string>>& overrides);

// The model that --model-path names, with --transformer and its like in place; whether it is gated
// is read from the weights' names.
layout::ModelFolder open_model(const config::Generate& settings);
// Sets is_gated of its transformers from the names in their weights, or in LoRA files that bring
// gates, which only the files know.
void find_gates(layout::ModelFolder& model, const std::vector<std::string>& loras = {});
bool has_gates(const Path& transformer);
config::ModelFacts facts_of(const layout::ModelFolder& model);
// A note where a prompt has words beyond the vocabulary that the model's fastwan.json lists.
std::vector<std::string> vocabulary_notes(const layout::ModelFolder& model,
                                          const std::vector<std::string>& prompts);
std::optional<config::Preset> folder_preset(const layout::ModelFolder& model);  // fastwan.json

// --prompt or the lines of --prompt-file; one empty prompt when embeddings or latents are given.
// InvalidInput usage when nothing says what to show, conflict, bad_value.
std::vector<std::string> collect_prompts(const config::Generate& settings);

// Everything that depends on the model is chosen and checked. Where a first frame is given and no
// size, its shape decides within the preset's area. Returns what should be said once.
std::vector<std::string> resolve_request(config::Generate& settings,
                                         const layout::ModelFolder& model);

// The GPU that --device names: cuda or cuda:i; nothing for auto and cpu. InvalidInput bad_value.
std::optional<std::size_t> gpu_index(const std::string& device);
// DeviceError no_gpu when it is not there.
void check_device(const std::string& device);

// Files that the request names must be there before any weights are read.
void check_inputs_exist(const config::Generate& settings);

}  // namespace fastwan::cli
