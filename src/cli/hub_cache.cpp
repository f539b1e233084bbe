#include "cli/hub_cache.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "base/check.h"
#include "base/env.h"
#include "base/text.h"
#include "models/layout/published.h"

namespace fastwan::cli {

bool is_hub_id(const std::string& text) {
  const auto is_name = [](const std::string& part) {
    return !part.empty() && part[0] != '.' &&
           std::all_of(part.begin(), part.end(), [](unsigned char c) {
             return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
           });
  };
  const std::vector<std::string> parts = split(text, '/');
  return parts.size() == 2 && is_name(parts[0]) && is_name(parts[1]);
}

Path hub_cache_root() {
  if (const auto cache = env("HF_HUB_CACHE")) {
    return *cache;
  }
  if (const auto home = env("HF_HOME")) {
    return Path(*home) / "hub";
  }
  if (const auto cache = env("XDG_CACHE_HOME")) {
    return Path(*cache) / "huggingface" / "hub";
  }
  return Path(env("HOME").value_or("/")) / ".cache" / "huggingface" / "hub";
}

std::optional<Path> look_up_model(const std::string& model, const std::string& revision) {
  std::error_code ignored;
  if (std::filesystem::exists(model, ignored)) {
    return model;
  }
  if (!is_hub_id(model)) {
    return std::nullopt;
  }
  const Path folder = hub_cache_root() / ("models--" + replace_all(model, "/", "--"));
  const std::string wanted = revision.empty() ? "main" : revision;
  Path snapshot = folder / "snapshots" / wanted;
  if (!std::filesystem::is_directory(snapshot, ignored) &&
      std::filesystem::exists(folder / "refs" / wanted, ignored)) {
    snapshot = folder / "snapshots" / std::string(trim(read_file(folder / "refs" / wanted, 4096)));
  }
  return std::filesystem::is_directory(snapshot, ignored) ? std::optional(snapshot) : std::nullopt;
}

Path find_model(const std::string& model, const std::string& revision, const std::string& flag) {
  if (const std::optional<Path> found = look_up_model(model, revision)) {
    return *found;
  }
  if (!is_hub_id(model)) {
    throw IoError(Code::kNotFound,
                  str(flag, " ", escape_control(model), ": no such file or folder"));
  }
  if (layout::is_clip_conditioned(model)) {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(flag, " ", model, ": ", layout::kNoImageBranch));
  }
  const std::string which = revision.empty() ? "" : " --revision " + revision;
  throw IoError(Code::kNotFound,
                str(flag, " ", model, which.empty() ? "" : " of revision " + revision,
                    " is neither a folder here nor in the hub cache ", hub_cache_root().string(),
                    ". Download it with: hf download ", model, which));
}

std::map<std::string, Path> find_models(const config::Recipe& recipe) {
  std::map<std::string, Path> found;
  const auto find = [&found](const std::string& key, const std::string& model) {
    const Path folder = find_model(model, "", key);
    if (folder != Path(model)) {
      found.emplace(model, folder);
    }
  };
  for (const auto& [role, model] : recipe.models) {
    // Of a feature net all is known without a folder.
    if (model.kind != config::NetworkKind::kFeatureNet ||
        model.init != config::WeightsInit::kRandom) {
      find("models." + role + ".init_from", model.init_from);
    }
  }
  if (config::trains_transformer(recipe.method.kind)) {
    find("training.model_path", recipe.training.model_path);
  }
  return found;
}

}  // namespace fastwan::cli
