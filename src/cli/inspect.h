// What a folder or file holds, as one JSON document each; nothing here needs torch.
#pragma once

#include "base/files.h"
#include "base/json.h"

namespace fastwan::cli {

// A folder with model_index.json: components against what their configs imply, gates, geometry.
Json describe_model(const Path& folder);

// A component folder, or one safetensors file: a LoRA, weights of a known model, or just tensors.
Json describe_weights(const Path& component);

// An mp4, webm, gif, webp, png or jpg: how it was made, and the command that makes it again.
Json describe_media(const Path& file);

// The document of any of the three, for people.
std::string text_of(const Json& document);

}  // namespace fastwan::cli
