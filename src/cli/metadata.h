// What a video tells about its making: inputs, program, model digest; never timings.
#pragma once

#include <string>

#include "base/json.h"
#include "config/generate.h"
#include "models/layout/model_folder.h"

namespace fastwan::cli {

// Settings that shape the result, by canonical flag name; values as their texts.
Json settings_document(const config::Generate& settings);

// sha256 over names, sizes and headers of the weights.
std::string model_digest(const layout::ModelFolder& model);

Json request_metadata(const config::Generate& settings, const layout::ModelFolder& model);

// The command that makes the video again: "fastwan generate -m ... -p '...' --seed 7 ...". Of a
// foreign file only settings that we know are taken.
std::string command_of(const Json& metadata);

}  // namespace fastwan::cli
