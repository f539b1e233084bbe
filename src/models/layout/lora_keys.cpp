#include "models/layout/lora_keys.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "models/layout/tensors.h"

namespace fastwan::layout {
namespace {

constexpr std::array<std::pair<std::string_view, LoraPart>, 10> kEndings = {
    {{".lora_A.weight", LoraPart::kDown},
     {".lora_A.default.weight", LoraPart::kDown},
     {".lora_down.weight", LoraPart::kDown},
     {".lora_B.weight", LoraPart::kUp},
     {".lora_B.default.weight", LoraPart::kUp},
     {".lora_up.weight", LoraPart::kUp},
     {".lora_alpha", LoraPart::kAlpha},
     {".alpha", LoraPart::kAlpha},
     {".diff_b", LoraPart::kDiffBias},
     {".diff", LoraPart::kDiff}}};

constexpr std::string_view kMusubiPrefix = "lora_unet_";

// Modules whose own names hold underscores; every other underscore of a musubi key is a dot.
constexpr std::array<std::string_view, 8> kJoined = {
    "self_attn",      "cross_attn",     "norm_q",          "norm_k",
    "text_embedding", "time_embedding", "time_projection", "patch_embedding"};

// "blocks_0_self_attn_q" -> "blocks.0.self_attn.q"
std::string with_dots(std::string name) {
  std::replace(name.begin(), name.end(), '_', '.');
  for (const std::string_view joined : kJoined) {
    std::string dotted(joined);
    std::replace(dotted.begin(), dotted.end(), '_', '.');
    name = replace_all(name, dotted, joined);
  }
  return name;
}

// The rename tables of weights need the dot that follows a module's name.
std::string diffusers_module(const std::string& module) {
  const std::string suffix = ".weight";
  const std::string name = diffusers_name_of_original(module + suffix);
  return name.substr(0, name.size() - suffix.size());
}

}  // namespace

const char* name_of(LoraStyle style) {
  switch (style) {
    case LoraStyle::kPeft:
      return "PEFT";
    case LoraStyle::kOriginal:
      return "original Wan";
    case LoraStyle::kMusubi:
      return "musubi";
  }
  return "?";
}

std::optional<LoraKey> read_lora_key(const std::string& key) {
  const auto* ending = std::find_if(kEndings.begin(), kEndings.end(),
                                    [&key](const auto& row) { return key.ends_with(row.first); });
  if (ending == kEndings.end()) {
    return std::nullopt;
  }
  std::string module = key.substr(0, key.size() - ending->first.size());
  if (module.starts_with(kMusubiPrefix)) {
    return LoraKey{diffusers_module(with_dots(module.substr(kMusubiPrefix.size()))), ending->second,
                   LoraStyle::kMusubi};
  }
  for (const std::string_view prefix : {"base_model.model.", "transformer."}) {
    if (module.starts_with(prefix)) {
      module = module.substr(prefix.size());
    }
  }
  const std::string diffusers = diffusers_module(module);
  const LoraStyle style = diffusers == module ? LoraStyle::kPeft : LoraStyle::kOriginal;
  return LoraKey{diffusers, ending->second, style};
}

bool is_whole_gate(const std::string& key) {
  return key.ends_with(str('.', kGateName, ".weight")) ||
         key.ends_with(str('.', kGateName, ".bias"));
}

LoraChoice read_lora_choice(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  std::error_code ignored;
  if (colon == std::string::npos || std::filesystem::exists(text, ignored)) {
    return {text};
  }
  const std::optional<double> scale = parse_double(std::string_view(text).substr(colon + 1));
  if (!scale) {
    throw InvalidInput(Code::kBadValue,
                       str("--lora must be PATH or PATH:scale with a number as scale, got ",
                           escape_control(text)));
  }
  return {text.substr(0, colon), *scale};
}

}  // namespace fastwan::layout
