// `fastwan preprocess inspect|verify|decode`: rows that are there.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace fastwan::cli {

int inspect_rows(const std::vector<std::string>& words);
// Reads every row: shapes, types, finite numbers, ids that come once, checksums of manifests. Exit
// status of bad_dataset when something is wrong.
int verify_rows(const std::vector<std::string>& words);
int decode_rows(const Program& program, const std::vector<std::string>& words);

}  // namespace fastwan::cli
