#include "config/generate.h"

namespace fastwan::config {

const char* name_of(Origin origin) {
  switch (origin) {
    case Origin::kBuiltIn:
      return "built-in";
    case Origin::kScheduler:
      return "scheduler_config.json";
    case Origin::kPresetTable:
      return "preset table";
    case Origin::kFolder:
      return "fastwan.json";
    case Origin::kPreset:
      return "--preset";
    case Origin::kConfigFile:
      return "config file";
    case Origin::kEnvironment:
      return "environment";
    case Origin::kFlag:
      return "command line";
  }
  return "?";
}

std::span<const EnumName<Sampler>> names(Sampler) {
  static constexpr std::array<EnumName<Sampler>, 4> kNames = {{{"auto", Sampler::kAuto},
                                                               {"dmd", Sampler::kDmd},
                                                               {"unipc", Sampler::kUnipc},
                                                               {"euler", Sampler::kEuler}}};
  return kNames;
}

std::span<const EnumName<Rng>> names(Rng) {
  static constexpr std::array<EnumName<Rng>, 2> kNames = {
      {{"philox", Rng::kPhilox}, {"torch", Rng::kTorch}}};
  return kNames;
}

std::span<const EnumName<Compat>> names(Compat) {
  static constexpr std::array<EnumName<Compat>, 3> kNames = {{{"auto", Compat::kAuto},
                                                              {"diffusers", Compat::kDiffusers},
                                                              {"fastvideo", Compat::kFastvideo}}};
  return kNames;
}

std::span<const EnumName<SigmaSchedule>> names(SigmaSchedule) {
  static constexpr std::array<EnumName<SigmaSchedule>, 4> kNames = {
      {{"auto", SigmaSchedule::kAuto},
       {"diffusers", SigmaSchedule::kDiffusers},
       {"fastvideo", SigmaSchedule::kFastvideo},
       {"wan", SigmaSchedule::kWan}}};
  return kNames;
}

std::span<const EnumName<AttentionBackend>> names(AttentionBackend) {
  // The last three are FastVideo's names.
  static constexpr std::array<EnumName<AttentionBackend>, 6> kNames = {
      {{"auto", AttentionBackend::kAuto},
       {"vsa", AttentionBackend::kVsa},
       {"dense", AttentionBackend::kDense},
       {"VIDEO_SPARSE_ATTN", AttentionBackend::kVsa},
       {"FLASH_ATTN", AttentionBackend::kDense},
       {"TORCH_SDPA", AttentionBackend::kDense}}};
  return kNames;
}

std::span<const EnumName<TopkFormula>> names(TopkFormula) {
  static constexpr std::array<EnumName<TopkFormula>, 2> kNames = {
      {{"padded", TopkFormula::kPadded}, {"unpadded", TopkFormula::kUnpadded}}};
  return kNames;
}

std::span<const EnumName<Precision>> names(Precision) {
  static constexpr std::array<EnumName<Precision>, 5> kNames = {{{"auto", Precision::kAuto},
                                                                 {"fp32", Precision::kFp32},
                                                                 {"bf16", Precision::kBf16},
                                                                 {"float32", Precision::kFp32},
                                                                 {"bfloat16", Precision::kBf16}}};
  return kNames;
}

std::span<const EnumName<Offload>> names(Offload) {
  static constexpr std::array<EnumName<Offload>, 4> kNames = {{{"auto", Offload::kAuto},
                                                               {"none", Offload::kNone},
                                                               {"stage", Offload::kStage},
                                                               {"layer", Offload::kLayer}}};
  return kNames;
}

std::span<const EnumName<Fit>> names(Fit) {
  static constexpr std::array<EnumName<Fit>, 3> kNames = {
      {{"crop", Fit::kCrop}, {"pad", Fit::kPad}, {"stretch", Fit::kStretch}}};
  return kNames;
}

std::span<const EnumName<Metadata>> names(Metadata) {
  static constexpr std::array<EnumName<Metadata>, 3> kNames = {
      {{"full", Metadata::kFull}, {"minimal", Metadata::kMinimal}, {"none", Metadata::kNone}}};
  return kNames;
}

}  // namespace fastwan::config
