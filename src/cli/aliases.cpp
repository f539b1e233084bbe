#include "cli/aliases.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"

namespace fastwan::cli {
namespace {

constexpr std::string_view kFolderDecides = "the model folder says what it is";
constexpr std::string_view kAlways = "attention is always computed in blocks";

constexpr std::array kAliases = {
    Alias{"size", true, "--width", "", ""},
    // Wan's generate.py
    Alias{"task", true, "", "", kFolderDecides},
    Alias{"ckpt-dir", true, "--model-path", "", ""},
    Alias{"offload-model", true, "--offload", "", ""},
    Alias{"t5-cpu", false, "", "",
          "--offload stage keeps the text encoder off the GPU between uses"},
    Alias{"frame-num", true, "--num-frames", "", ""},
    Alias{"sample-steps", true, "--steps", "", ""},
    Alias{"sample-shift", true, "--flow-shift", "", ""},
    Alias{"sample-guide-scale", true, "--guidance-scale", "", ""},
    Alias{"base-seed", true, "--seed", "", ""},
    Alias{"save-file", true, "--output", "", ""},
    // stable-diffusion.cpp
    Alias{"mode", true, "", "", ""},
    Alias{"video-frames", true, "--num-frames", "", ""},
    Alias{"cfg-scale", true, "--guidance-scale", "", ""},
    Alias{"diffusion-model", true, "--model-path", "", ""},
    Alias{"t5xxl", true, "--text-encoder", "", ""},
    Alias{"offload-to-cpu", false, "--offload", "stage", ""},
    Alias{"stream-layers", false, "--offload", "layer", ""},
    Alias{"auto-fit", false, "--offload", "auto", ""},
    Alias{"diffusion-fa", false, "", "", kAlways},
};

Translation translate_size(const std::string& value) {
  const std::size_t cross = value.find_first_of("xX*");
  if (cross == std::string::npos) {
    config::throw_bad_value("--size", "WIDTHxHEIGHT as 832x480", value);
  }
  return {{"--width", value.substr(0, cross), "--height", value.substr(cross + 1)}, ""};
}

Translation translate_mode(const std::string& value) {
  if (value != "vid_gen") {
    throw InvalidInput(Code::kUsage,
                       str("--mode must be vid_gen, the only thing this program does, got ",
                           escape_control(value)));
  }
  return {};
}

}  // namespace

const Alias* find_alias(std::string_view name) {
  const auto* found = std::find_if(kAliases.begin(), kAliases.end(),
                                   [name](const Alias& alias) { return alias.name == name; });
  return found == kAliases.end() ? nullptr : found;
}

Translation translate(const Alias& alias, const std::string& value) {
  if (alias.name == "size") {
    return translate_size(value);
  }
  if (alias.name == "mode") {
    return translate_mode(value);
  }
  if (alias.ours.empty()) {
    return {{}, str("--", alias.name, " has no effect here: ", alias.note)};
  }
  std::string ours = alias.takes_value ? value : std::string(alias.value);
  if (alias.name == "offload-model") {
    ours = config::to_bool(to_lower(value), "--offload-model") ? "stage" : "none";
  }
  return {{std::string(alias.ours), ours},
          str("--", alias.name, " is ", alias.ours, alias.takes_value ? "" : " " + ours, " here")};
}

}  // namespace fastwan::cli
