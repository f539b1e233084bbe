#include "config/presets.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"

namespace fastwan::config {
namespace {

// The two negative prompts are data of the Wan authors (Wan2.1 shared_config.py) and of FastVideo's
// presets.
constexpr const char* kNegativeEnglish =
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall "
    "gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, "
    "poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, "
    "messy background, three "
    "legs, many people in the background, walking backwards";
constexpr const char* kNegativeChinese =
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低"
    "质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手"
    "指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

const std::vector<int64_t> kThreeSteps = {1000, 757, 522};

std::vector<Preset> make_presets() {
  return {
      {.name = "wan_t2v_1_3b",
       .about = "Wan2.1-T2V-1.3B",
       .width = 832,
       .height = 480,
       .num_frames = 81,
       .fps = 16,
       .steps = 50,
       .guidance_scale = 3.0,
       .flow_shift = 3.0,
       .sampler = Sampler::kUnipc,
       .negative_prompt = kNegativeEnglish},
      {.name = "wan_t2v_14b",
       .about = "Wan2.1-T2V-14B",
       .width = 1280,
       .height = 720,
       .num_frames = 81,
       .fps = 16,
       .steps = 50,
       .guidance_scale = 5.0,
       .flow_shift = 5.0,
       .sampler = Sampler::kUnipc,
       .negative_prompt = kNegativeEnglish},
      {.name = "wan_2_2_ti2v_5b",
       .about = "Wan2.2-TI2V-5B, text or text and first frame",
       .width = 1280,
       .height = 704,
       .num_frames = 121,
       .fps = 24,
       .steps = 50,
       .guidance_scale = 5.0,
       .flow_shift = 5.0,
       .sampler = Sampler::kUnipc,
       .negative_prompt = kNegativeChinese},
      {.name = "wan_2_2_t2v_a14b",
       .about = "Wan2.2-T2V-A14B, two transformers",
       .width = 1280,
       .height = 720,
       .num_frames = 81,
       .fps = 16,
       .steps = 40,
       .guidance_scale = 4.0,
       .guidance_scale_2 = 3.0,
       .boundary_ratio = 0.875,
       .flow_shift = 12.0,
       .sampler = Sampler::kUnipc,
       .negative_prompt = kNegativeChinese},
      {.name = "fast_wan_t2v_480p",
       .about = "FastWan2.1-T2V-1.3B, three steps, sparse",
       .width = 832,
       .height = 448,
       .num_frames = 61,
       .fps = 16,
       .steps = 3,
       .dmd_denoising_steps = kThreeSteps,
       .guidance_scale = 1.0,
       .flow_shift = 8.0,
       .vsa_sparsity = 0.8,
       .sampler = Sampler::kDmd},
      {.name = "fast_wan_t2v_14b_480p",
       .about = "FastWan2.1-T2V-14B, three steps, sparse",
       .width = 832,
       .height = 448,
       .num_frames = 61,
       .fps = 16,
       .steps = 3,
       .dmd_denoising_steps = kThreeSteps,
       .guidance_scale = 1.0,
       .flow_shift = 8.0,
       .vsa_sparsity = 0.9,
       .sampler = Sampler::kDmd},
      {.name = "fast_wan_2_2_ti2v_5b",
       .about = "FastWan2.2-TI2V-5B, three steps, dense",
       .width = 1280,
       .height = 704,
       .num_frames = 121,
       .fps = 24,
       .steps = 3,
       .dmd_denoising_steps = kThreeSteps,
       .guidance_scale = 1.0,
       .flow_shift = 8.0,
       .vsa_sparsity = 0.0,
       .sampler = Sampler::kDmd},
      {.name = "wan_vsa_t2v_14b_720p",
       .about = "Wan2.1-VSA-T2V-14B-720P: finetuned for sparse attention, not distilled",
       .width = 832,
       .height = 448,
       .num_frames = 77,
       .fps = 16,
       .steps = 50,
       .guidance_scale = 5.0,
       .flow_shift = 5.0,
       .vsa_sparsity = 0.9,
       .sampler = Sampler::kUnipc,
       .negative_prompt = kNegativeEnglish},
  };
}

struct Row {
  const char* class_name;
  int64_t vae_z, layers, width;
  std::optional<bool> is_gated;  // nullopt: either
  bool has_transformer_2;
  const char* preset;
};

constexpr std::array<Row, 8> kRows = {{
    {"WanPipeline", 16, 30, 1536, false, false, "wan_t2v_1_3b"},
    {"WanPipeline", 16, 40, 5120, false, false, "wan_t2v_14b"},
    {"WanPipeline", 16, 40, 5120, true, false, "wan_vsa_t2v_14b_720p"},
    {"WanPipeline", 16, 40, 5120, std::nullopt, true, "wan_2_2_t2v_a14b"},
    {"WanPipeline", 48, 30, 3072, std::nullopt, false, "wan_2_2_ti2v_5b"},
    {"WanDMDPipeline", 16, 30, 1536, std::nullopt, false, "fast_wan_t2v_480p"},
    {"WanDMDPipeline", 16, 40, 5120, std::nullopt, false, "fast_wan_t2v_14b_480p"},
    {"WanDMDPipeline", 48, 30, 3072, std::nullopt, false, "fast_wan_2_2_ti2v_5b"},
}};

}  // namespace

std::span<const Preset> all_presets() {
  static const std::vector<Preset> presets = make_presets();
  return presets;
}

const Preset& preset_named(const std::string& name) {
  std::vector<std::string> known;
  for (const Preset& preset : all_presets()) {
    if (preset.name == name) {
      return preset;
    }
    known.push_back(preset.name);
  }
  const std::optional<std::string> guess = nearest(name, known);
  throw InvalidInput(
      Code::kBadValue,
      str("--preset ", name.empty() ? "''" : escape_control(name), " is not known.",
          guess ? " Did you mean " + *guess + "?" : "", " Known: ", join_first(known, 20)));
}

const Preset* preset_for(const ModelFacts& facts) {
  const auto* row = std::find_if(kRows.begin(), kRows.end(), [&facts](const Row& r) {
    return r.class_name == facts.class_name && r.vae_z == facts.vae_z && r.layers == facts.layers &&
           r.width == facts.width && r.has_transformer_2 == facts.has_transformer_2 &&
           r.is_gated.value_or(facts.is_gated) == facts.is_gated;
  });
  return row == kRows.end() ? nullptr : &preset_named(row->preset);
}

namespace {

template <class T>
void take(const Json& json, const char* key, std::optional<T>& to, const std::string& origin) {
  if (json.contains(key)) {
    to = json_get<T>(json, key, origin);
  }
}

Range take_range(const Json& legal, const char* key, const std::string& origin) {
  if (!legal.contains(key)) {
    return {};
  }
  const auto bounds = json_get<std::vector<int64_t>>(legal, key, origin);
  if (bounds.size() != 2 || bounds[0] > bounds[1]) {
    throw InvalidInput(Code::kBadJson,
                       str(origin, ": legal.", key, " must be [smallest, largest]"));
  }
  return {static_cast<double>(bounds[0]), static_cast<double>(bounds[1])};
}

template <class E>
void take_word(const Json& json,
               const char* key,
               std::optional<E>& into,
               const std::string& origin) {
  if (json.contains(key)) {
    into = to_enum<E>(json_get<std::string>(json, key, origin), str(origin, ": ", key));
  }
}

}  // namespace

Preset preset_from_json(const Json& json, const std::string& origin) {
  static const std::vector<std::string> kKeys = {"name",
                                                 "about",
                                                 "width",
                                                 "height",
                                                 "num_frames",
                                                 "fps",
                                                 "num_inference_steps",
                                                 "dmd_denoising_steps",
                                                 "warp_denoising_step",
                                                 "guidance_scale",
                                                 "guidance_scale_2",
                                                 "boundary_ratio",
                                                 "flow_shift",
                                                 "VSA_sparsity",
                                                 "attention_backend",
                                                 "sampler",
                                                 "negative_prompt",
                                                 "legal",
                                                 "vocabulary"};
  if (!json.is_object()) {
    throw InvalidInput(Code::kBadJson, str(origin, ": must be an object"));
  }
  for (const auto& [key, value] : json.items()) {
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      const std::optional<std::string> guess = nearest(key, kKeys);
      throw InvalidInput(Code::kUnknownKey,
                         str(origin, ": ", escape_control(key), " is not a setting here.",
                             guess ? " Did you mean " + *guess + "?" : ""));
    }
  }
  Preset preset;
  preset.name = json_get_or<std::string>(json, "name", "", origin);
  preset.about = json_get_or<std::string>(json, "about", "", origin);
  take(json, "width", preset.width, origin);
  take(json, "height", preset.height, origin);
  take(json, "num_frames", preset.num_frames, origin);
  take(json, "fps", preset.fps, origin);
  take(json, "num_inference_steps", preset.steps, origin);
  take(json, "guidance_scale", preset.guidance_scale, origin);
  take(json, "guidance_scale_2", preset.guidance_scale_2, origin);
  take(json, "boundary_ratio", preset.boundary_ratio, origin);
  take(json, "flow_shift", preset.flow_shift, origin);
  take(json, "VSA_sparsity", preset.vsa_sparsity, origin);
  take(json, "negative_prompt", preset.negative_prompt, origin);
  preset.dmd_denoising_steps =
      json_get_or<std::vector<int64_t>>(json, "dmd_denoising_steps", {}, origin);
  take(json, "warp_denoising_step", preset.warp_denoising_step, origin);
  take_word(json, "sampler", preset.sampler, origin);
  take_word(json, "attention_backend", preset.attention_backend, origin);
  if (json.contains("legal")) {
    const Json& legal = json.at("legal");
    preset.limits = Limits{take_range(legal, "width", origin), take_range(legal, "height", origin),
                           take_range(legal, "num_frames", origin)};
  }
  return preset;
}

Json to_json(const Preset& preset) {
  Json out = {{"name", preset.name}, {"about", preset.about}};
  const auto put = [&out](const char* key, const auto& value) {
    if (value) {
      out[key] = *value;
    }
  };
  put("width", preset.width);
  put("height", preset.height);
  put("num_frames", preset.num_frames);
  put("fps", preset.fps);
  put("num_inference_steps", preset.steps);
  if (!preset.dmd_denoising_steps.empty()) {
    out["dmd_denoising_steps"] = preset.dmd_denoising_steps;
  }
  put("warp_denoising_step", preset.warp_denoising_step);
  put("guidance_scale", preset.guidance_scale);
  put("guidance_scale_2", preset.guidance_scale_2);
  put("boundary_ratio", preset.boundary_ratio);
  put("flow_shift", preset.flow_shift);
  put("VSA_sparsity", preset.vsa_sparsity);
  if (preset.sampler) {
    out["sampler"] = name_of(*preset.sampler);
  }
  if (preset.attention_backend) {
    out["attention_backend"] = name_of(*preset.attention_backend);
  }
  put("negative_prompt", preset.negative_prompt);
  return out;
}

void apply(const Preset& preset, Origin origin, Generate& into) {
  const auto put = [origin](const auto& from, auto& to) {
    if (from) {
      to.set(*from, origin);
    }
  };
  put(preset.width, into.width);
  put(preset.height, into.height);
  put(preset.num_frames, into.num_frames);
  put(preset.fps, into.fps);
  put(preset.steps, into.steps);
  put(preset.guidance_scale, into.guidance_scale);
  put(preset.guidance_scale_2, into.guidance_scale_2);
  put(preset.boundary_ratio, into.boundary_ratio);
  put(preset.flow_shift, into.flow_shift);
  put(preset.vsa_sparsity, into.vsa_sparsity);
  put(preset.sampler, into.sampler);
  put(preset.attention_backend, into.attention_backend);
  put(preset.negative_prompt, into.negative_prompt);
  if (!preset.dmd_denoising_steps.empty()) {
    into.dmd_denoising_steps.set(preset.dmd_denoising_steps, origin);
  }
  put(preset.warp_denoising_step, into.warp_denoising_step);
}

}  // namespace fastwan::config
