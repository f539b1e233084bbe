// FastVideo's ways to say a training run: its train YAML with `_target_` names, the YAML of its
// older trainer (engine, pipeline, training), and that trainer's flat flags. All become keys of
// recipe.h.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/recipe.h"
#include "config/yaml_reader.h"

namespace fastwan::config {

// Rewrites FastVideo's class names and older keys to ours and removes keys that mean nothing here;
// values that are ours already stay. Returns notes: what was left out, and where FastVideo would do
// otherwise. InvalidInput unsupported_method for methods that are not here, unsupported_model for
// networks.
std::vector<std::string> translate_train_values(std::map<std::string, YamlValue>& values,
                                                const std::string& origin);

// One flat flag of FastVideo's trainer, without dashes at the start, '-' for '_' and lower case:
// "vsa-sparsity". Null where FastVideo has no such flag; InvalidInput unsupported_method where it
// belongs to a method that is not here.
struct FlatFlag;
const FlatFlag* find_flat_flag(std::string_view name);
// A switch may stand alone; its value, if one follows, is True or False.
bool is_switch(const FlatFlag& flag);
std::vector<std::string> flat_flag_names();  // with dashes, for suggestions

struct FlatFlags {
  std::vector<Override> overrides;
  std::vector<std::string> notes;
};
// `given`: names as find_flat_flag takes them, and values ("true" for a switch that stood alone).
// `method`: nullopt derives it: distill where flags of distillation are given, else finetune.
// `is_complete`: the flags are the whole run, so FastVideo's own defaults hold for what they leave
// out; otherwise they change a recipe.
// Note: the guidance scale w of the real score becomes the standard scale w + 1.
FlatFlags translate_flat_flags(const std::vector<std::pair<std::string, std::string>>& given,
                               std::optional<MethodKind> method,
                               bool is_complete);

}  // namespace fastwan::config
