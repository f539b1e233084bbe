#include "config/fastvideo.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::config {
namespace {

// No effect here; warned about once.
constexpr std::array<std::string_view, 9> kIgnoredPrefixes = {
    "generator.engine.compile.",
    "generator.engine.disable_autocast",
    "generator.engine.use_fsdp_inference",
    "generator.engine.enable_stage_verification",
    "generator.engine.execution_backend",
    "generator.engine.parallelism.",
    "generator.engine.enable_torch_compile",
    "generator.pipeline.preset_overrides",
    "request.sampling.max_sequence_length"};

// Keys that only say what is already so.
constexpr std::array<std::string_view, 3> kSilentKeys = {"request.output.save_video",
                                                         "request.output.return_frames",
                                                         "generator.pipeline.workload_type"};

struct OnlyValue {
  std::string_view key;
  std::string_view allowed;
  std::string_view reason;
};

// Refused unless they have the one value that this program can honour.
constexpr std::array<OnlyValue, 4> kRefused = {
    {{"generator.trust_remote_code", "false", "code from a model folder is never run"},
     {"generator.engine.num_gpus", "1", "one GPU is used"},
     {"generator.engine.quantization.transformer_quant", "none", "only fp32 and bf16 are computed"},
     {"generator.pipeline.vae_sp", "false", "one GPU is used"}}};

bool is_true(const YamlValue& value) {
  return value.texts == std::vector<std::string>{"true"};
}

// FastVideo's four offload switches, when written, become one mode: by layer, by stage or none.
void translate_offload(std::map<std::string, YamlValue>& values, Generate& into) {
  const auto take = [&values](const char* key) -> std::optional<YamlValue> {
    const auto found = values.find(key);
    if (found == values.end()) {
      return std::nullopt;
    }
    YamlValue value = found->second;
    values.erase(found);
    return value;
  };
  const auto layer = take("generator.engine.offload.dit_layerwise_offload");
  bool any_written = layer.has_value();
  bool any_stage = false;
  for (const char* key : {"generator.engine.offload.dit_cpu_offload",
                          "generator.engine.offload.text_encoder_cpu_offload",
                          "generator.engine.offload.image_encoder_cpu_offload",
                          "generator.engine.offload.vae_cpu_offload"}) {
    const auto value = take(key);
    any_written = any_written || value.has_value();
    any_stage = any_stage || (value && is_true(*value));
  }
  take("generator.engine.offload.pin_cpu_memory");
  if (any_written) {
    const Offload mode = layer && is_true(*layer) ? Offload::kLayer
                         : any_stage              ? Offload::kStage
                                                  : Offload::kNone;
    into.offload.set(mode, Origin::kConfigFile);
  }
}

}  // namespace

std::vector<std::string> translate_run_file(std::map<std::string, YamlValue>& values,
                                            const std::string& origin,
                                            Generate& into) {
  std::vector<std::string> warnings;
  std::vector<std::string> ignored;
  for (const OnlyValue& rule : kRefused) {
    const auto found = values.find(std::string(rule.key));
    if (found != values.end()) {
      if (found->second.texts != std::vector<std::string>{std::string(rule.allowed)}) {
        throw InvalidInput(Code::kBadValue,
                           str(origin, ":", found->second.line, ":", found->second.column, ": ",
                               rule.key, " must be ", rule.allowed, ": ", rule.reason));
      }
      values.erase(found);
    }
  }
  const bool has_offload = std::any_of(values.begin(), values.end(), [](const auto& entry) {
    return entry.first.starts_with("generator.engine.offload.") &&
           entry.first != "generator.engine.offload.mode";
  });
  if (has_offload) {
    translate_offload(values, into);
  }
  for (auto entry = values.begin(); entry != values.end();) {
    const std::string& key = entry->first;
    const bool silent = std::find(kSilentKeys.begin(), kSilentKeys.end(), key) != kSilentKeys.end();
    const bool no_effect =
        std::any_of(kIgnoredPrefixes.begin(), kIgnoredPrefixes.end(),
                    [&key](std::string_view prefix) { return key.starts_with(prefix); });
    if (no_effect) {
      ignored.push_back(key);
    }
    entry = silent || no_effect ? values.erase(entry) : std::next(entry);
  }
  if (!ignored.empty()) {
    warnings.push_back(str(origin, ": no effect here: ", join_first(ignored, 10)));
  }
  // FastVideo's own files draw with torch from seed 1024; the schema marker is its `generator`
  // section.
  const bool is_fastvideo_run = values.contains("generator.model_path");
  if (is_fastvideo_run) {
    into.rng.set(Rng::kTorch, Origin::kBuiltIn);
    into.seed.set(1024, Origin::kBuiltIn);
  }
  // There, frames are floored to 4k+1.
  const auto frames = values.find("request.sampling.num_frames");
  if (is_fastvideo_run && frames != values.end() && frames->second.texts.size() == 1) {
    const std::optional<int64_t> asked = parse_int(frames->second.texts[0]);
    if (asked && *asked > 1 && *asked % 4 != 1) {
      const int64_t floored = (*asked - 1) / 4 * 4 + 1;
      warnings.push_back(
          str(origin, ": num_frames ", *asked, " is not 4k+1; ", floored, " are made"));
      frames->second.texts = {std::to_string(floored)};
    }
  }
  return warnings;
}

}  // namespace fastwan::config
