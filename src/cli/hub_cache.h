// The local cache of model hub downloads, shared with the Python client; nothing is fetched here.
#pragma once

#include <string>

#include "base/files.h"

namespace fastwan::cli {

// HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub, in this
// order.
Path hub_cache_root();

// A folder as it is, a single .safetensors file, or a cached org/name. IoError not_found with the
// command that downloads a hub id that is not cached; `flag` names the argument in messages.
Path find_model(const std::string& model,
                const std::string& revision,
                const std::string& flag = "--model-path");

}  // namespace fastwan::cli
