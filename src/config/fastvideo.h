// FastVideo's run files: what its keys mean here, and which mean nothing.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/generate.h"
#include "config/yaml_reader.h"

namespace fastwan::config {

// Removes from `values` the keys of FastVideo's schema that are not settings here, maps the ones
// with another name, and refuses those that must not be ignored. Returns warnings. A file that
// names generator.model_path in FastVideo's schema also selects its random numbers (torch) and seed
// (1024) unless it says otherwise.
std::vector<std::string> translate_run_file(std::map<std::string, YamlValue>& values,
                                            const std::string& origin,
                                            Generate& into);

}  // namespace fastwan::config
