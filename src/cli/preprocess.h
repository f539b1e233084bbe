// `fastwan preprocess` and its subcommands.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace fastwan::cli {

int run_preprocess(const Program& program, const std::vector<std::string>& words);

}  // namespace fastwan::cli
