// Flags of `fastwan generate` and `fastwan plan`, bound to config::Generate through its one
// description.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "config/generate.h"

namespace fastwan::cli {

// argv as CLI11 shall see it: '_' becomes '-' in long names, dotted overrides
// (--request.sampling.seed=5, --set a.b=c) are taken out, other programs' names and --size become
// ours.
struct Arguments {
  std::vector<std::string> words;
  std::vector<std::pair<std::string, std::string>> overrides;  // dotted key, value
  std::vector<std::string> notes;                              // other programs' names, once each
};
Arguments prepare(const std::vector<std::string>& argv);

// Adds an option for every setting; apply() moves what was given into the settings.
class SettingFlags {
 public:
  SettingFlags(CLI::App& app, config::Generate& settings);
  ~SettingFlags();
  SettingFlags(const SettingFlags&) = delete;
  SettingFlags& operator=(const SettingFlags&) = delete;
  void apply();

 private:
  struct Flag;
  struct Adder;
  struct Applier;
  CLI::App& app_;
  config::Generate& settings_;
  std::vector<std::unique_ptr<Flag>> flags_;
};

// The canonical long name of a setting's flag: "--height".
std::string long_name(const config::FieldInfo& info);

// Parses and turns CLI11's complaints into ours: unknown options with the nearest name, an option
// given twice. Returns false when help was asked for and printed.
bool parse(CLI::App& app, const std::vector<std::string>& words);

}  // namespace fastwan::cli
