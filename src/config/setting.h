// A value that remembers who set it, so that a default never hides a stronger source.
#pragma once

#include <string>
#include <utility>

namespace fastwan::config {

// Weakest first: a source never overrides a stronger one.
enum class Origin {
  kBuiltIn,
  kScheduler,    // scheduler/scheduler_config.json of the model
  kPresetTable,  // the table of presets, chosen by the model's facts
  kFolder,       // fastwan.json in the model's folder
  kPreset,       // --preset
  kConfigFile,
  kEnvironment,
  kFlag,
};

const char* name_of(Origin origin);

template <class T>
struct Setting {
  T value{};
  Origin origin = Origin::kBuiltIn;
  bool is_set = false;  // false: only the built-in value stands

  const T& operator*() const { return value; }
  const T* operator->() const { return &value; }

  // Takes the value if no stronger source has spoken.
  void set(T new_value, Origin from) {
    if (!is_set || from >= origin) {
      value = std::move(new_value);
      origin = from;
      is_set = true;
    }
  }
};

}  // namespace fastwan::config
