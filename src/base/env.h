// The only place that reads environment variables (docs/environment.md lists them).
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace fastwan {

// Empty counts as unset.
std::optional<std::string> env(const char* name);

// FASTWAN_* variables that are set but mean nothing to this program: a warning names them.
std::vector<std::string> unknown_fastwan_variables();

}  // namespace fastwan
