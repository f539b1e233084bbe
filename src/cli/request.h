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

// The model that --model-path names, with --transformer and its like in place.
layout::ModelFolder open_model(const config::Generate& settings);
config::ModelFacts facts_of(const layout::ModelFolder& model);
std::optional<config::Preset> folder_preset(const layout::ModelFolder& model);  // fastwan.json

// --prompt or the lines of --prompt-file; one empty prompt when embeddings or latents are given.
std::vector<std::string> collect_prompts(const config::Generate& settings);

// Width and height from the first frame's shape, where the user gave none, within the preset's
// area.
void derive_size_from_image(config::Generate& settings, const layout::ModelFolder& model);

// Files that the request names must be there before any weights are read.
void check_inputs_exist(const config::Generate& settings);

}  // namespace fastwan::cli
