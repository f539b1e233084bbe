// Strict YAML (and so JSON) run files: unknown key, repeated key, wrong type and value out of range
// are errors with file, line and key.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "config/generate.h"

namespace fastwan::config {

struct YamlValue {
  std::vector<std::string> texts;  // a scalar: one; a list of scalars: several
  int line = 0;                    // 1-based
  int column = 0;
};

// Dotted keys to values. Limits: 1 MiB, one document, UTF-8, 32 levels, no custom tags, no repeated
// keys, no tabs in the indentation. `origin` names the source in messages.
std::map<std::string, YamlValue> read_yaml(std::string_view text, const std::string& origin);

// Applies a run file; returns warnings (FastVideo keys that mean nothing here, named once).
std::vector<std::string> read_run_file(const Path& file, Generate& into);

// Applies "request.sampling.seed" = "5".
void apply_override(const std::string& key, const std::string& value, Generate& into);

}  // namespace fastwan::config
