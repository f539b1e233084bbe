// The local cache of model hub downloads, shared with the Python client; nothing is fetched here.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/files.h"
#include "config/recipe.h"

namespace fastwan::cli {

// HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub, in this
// order.
Path hub_cache_root();

// Whether a text has the form of org/name; a path of two parts has it too.
bool is_hub_id(const std::string& text);

// A folder as it is, a single .safetensors file, or the snapshot of a cached org/name; nullopt:
// none of these.
std::optional<Path> look_up_model(const std::string& model, const std::string& revision);

// The same; IoError not_found with the command that downloads a hub id that is not cached, or
// InvalidInput unsupported_model for one that a download would not help. `flag` names the argument
// in messages.
Path find_model(const std::string& model,
                const std::string& revision,
                const std::string& flag = "--model-path");

// Where the recipe's hub ids lie, by the id; what lies where it says is not listed. IoError
// not_found naming the key of what a run needs and is nowhere.
std::map<std::string, Path> find_models(const config::Recipe& recipe);

}  // namespace fastwan::cli
