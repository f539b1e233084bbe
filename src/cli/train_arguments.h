// argv of `fastwan train`: its own flags, dotted overrides of the recipe, and the flat flags of
// FastVideo's trainer.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/recipe.h"
#include "config/train_run.h"

namespace fastwan::cli {

struct TrainArguments {
  std::vector<std::string> words;           // what is left for the command's own flags
  std::vector<config::Override> overrides;  // models. method. training. callbacks. pipeline.
  std::vector<std::pair<std::string, std::string>>
      flat_flags;  // as translate_flat_flags takes them
};

// '_' is '-' in names, --x=v is --x v; a switch of FastVideo's may be followed by True or False, or
// be --no-x. `own`: names of the command's flags, with dashes. InvalidInput unknown_option with the
// nearest name, unknown_key for other roots, conflict for a key that is given twice.
TrainArguments split_train_arguments(const std::vector<std::string>& argv,
                                     const std::vector<std::string>& own);

// The recipe that the arguments ask for. `file` may be empty: then the flat flags are the run.
// `method`: finetune, distill, ... or empty. InvalidInput conflict where the file says another.
config::Recipe assemble_recipe(const Path& file,
                               const std::string& method,
                               const TrainArguments& arguments,
                               std::vector<std::string>& notes);

}  // namespace fastwan::cli
