#include "config/resolve.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::config {
namespace {

constexpr double kFewStepShift = 8.0;  // FastVideo's DMD loop, whatever a model's configs say
const std::vector<int64_t> kFewSteps = {1000, 757, 522};

// "Nearest: 480, 496" for a value that must be base + k * multiple.
std::string nearest_legal(int64_t value, int64_t base, int64_t multiple, const Range& range) {
  const int64_t below = base + (std::max(value, base) - base) / multiple * multiple;
  std::string out;
  for (const int64_t candidate : {below, below + multiple}) {
    const auto number = static_cast<double>(candidate);
    if (number >= range.min && number <= range.max) {
      out += str(out.empty() ? ". Nearest: " : ", ", candidate);
    }
  }
  return out;
}

struct Step {
  int64_t base, multiple;
  const char* words;  // "a multiple of 16"
};

// ", from --preset wan_t2v_1_3b" behind a value that the user did not write beside the model.
std::string source_of(const Setting<int64_t>& setting, const Generate& g) {
  switch (setting.origin) {
    case Origin::kFlag:
      return "";
    case Origin::kPreset:
      return str(", from --preset ", *g.preset);
    default:
      return str(", from ", name_of(setting.origin));
  }
}

struct SizeRule {
  const char* flag;
  Step step;
  Range range;
};

void check_size(const SizeRule& rule, const Setting<int64_t>& setting, const Generate& g) {
  const auto& [flag, step, range] = rule;
  const int64_t value = *setting;
  const auto number = static_cast<double>(value);
  if (value >= step.base && (value - step.base) % step.multiple == 0 && number >= range.min &&
      number <= range.max) {
    return;
  }
  std::string bounds;
  if (std::isfinite(range.min)) {
    bounds = str(" from ", format_number(range.min), " to ", format_number(range.max));
  }
  const auto clamped = static_cast<int64_t>(std::clamp(
      number, std::max(range.min, static_cast<double>(step.base)), std::min(range.max, 1e9)));
  throw InvalidInput(Code::kBadValue, str(flag, " must be ", step.words, bounds, ", got ", value,
                                          source_of(setting, g),
                                          nearest_legal(clamped, step.base, step.multiple, range)));
}

void choose_presets(Generate& g,
                    const ModelFacts& facts,
                    const std::optional<Preset>& folder_preset) {
  if (facts.scheduler_shift) {
    g.flow_shift.set(*facts.scheduler_shift, Origin::kScheduler);
  }
  if (facts.scheduler_class == "FlowMatchEulerDiscreteScheduler") {
    g.sampler.set(Sampler::kEuler, Origin::kScheduler);
  }
  if (const Preset* row = preset_for(facts)) {
    apply(*row, Origin::kPresetTable, g);
  }
  if (folder_preset) {
    apply(*folder_preset, Origin::kFolder, g);
  }
  if (g.preset.is_set) {
    apply(preset_named(*g.preset), Origin::kPreset, g);
  }
}

void choose_sampler(Generate& g, const ModelFacts& facts) {
  const bool is_distilled = facts.class_name == "WanDMDPipeline";
  if (*g.sampler == Sampler::kAuto) {
    g.sampler.value = is_distilled ? Sampler::kDmd : Sampler::kUnipc;
  }
  if (*g.compat == Compat::kAuto) {
    g.compat.value = is_distilled ? Compat::kFastvideo : Compat::kDiffusers;
  }
  if (*g.sigma_schedule == SigmaSchedule::kAuto) {
    g.sigma_schedule.value =
        *g.compat == Compat::kFastvideo ? SigmaSchedule::kFastvideo : SigmaSchedule::kDiffusers;
  }
}

void check_few_step(Generate& g, std::vector<std::string>& notes) {
  if (!g.dmd_denoising_steps.is_set || g.dmd_denoising_steps->empty()) {
    g.dmd_denoising_steps.set(kFewSteps, Origin::kBuiltIn);
  }
  const std::vector<int64_t>& list = *g.dmd_denoising_steps;
  for (std::size_t i = 1; i < list.size(); ++i) {
    if (list[i] >= list[i - 1]) {
      throw InvalidInput(Code::kBadValue, str("--dmd-denoising-steps must fall, got ", list[i - 1],
                                              " before ", list[i]));
    }
  }
  const auto count = static_cast<int64_t>(list.size());
  if (g.steps.is_set && g.steps.origin >= Origin::kConfigFile && *g.steps != count) {
    throw InvalidInput(Code::kConflict,
                       str("--steps ", *g.steps,
                           " does not fit this few-step model, whose --dmd-denoising-steps has ",
                           count, " entries. Drop --steps or give a list of that length"));
  }
  g.steps.value = count;
  if (*g.guidance_scale > 1.0 && g.guidance_scale.origin >= Origin::kConfigFile) {
    throw InvalidInput(Code::kConflict,
                       str("--guidance-scale ", format_number(*g.guidance_scale),
                           " has no place in a few-step model: guidance was distilled into it. "
                           "Drop it or use 1"));
  }
  g.guidance_scale.value = 1.0;
  // A base model's scheduler_config.json travels with the distilled model and must not drive it.
  if (!g.flow_shift.is_set || g.flow_shift.origin == Origin::kScheduler) {
    g.flow_shift.value = kFewStepShift;
    g.flow_shift.origin = Origin::kBuiltIn;
    g.flow_shift.is_set = true;
  }
  if (g.negative_prompt.is_set && g.negative_prompt.origin >= Origin::kConfigFile &&
      !g.negative_prompt->empty()) {
    notes.emplace_back("the negative prompt has no effect: a few-step model runs without guidance");
  }
}

void check_many_step(Generate& g, const ModelFacts& facts) {
  if (g.dmd_denoising_steps.is_set && g.dmd_denoising_steps.origin >= Origin::kConfigFile) {
    throw InvalidInput(Code::kConflict,
                       str("--dmd-denoising-steps belongs to the dmd sampler, got --sampler ",
                           name_of(*g.sampler)));
  }
  if (*g.warp_denoising_step && g.warp_denoising_step.origin >= Origin::kConfigFile) {
    throw InvalidInput(Code::kConflict,
                       str("--warp-denoising-step belongs to the dmd sampler, got --sampler ",
                           name_of(*g.sampler)));
  }
  if (!g.steps.is_set) {
    g.steps.set(50, Origin::kBuiltIn);
  }
  if (!g.guidance_scale.is_set) {
    g.guidance_scale.set(5.0, Origin::kBuiltIn);  // as diffusers' WanPipeline
  }
  if (!g.flow_shift.is_set) {
    g.flow_shift.set(5.0, Origin::kBuiltIn);
  }
  if (facts.has_transformer_2) {
    g.boundary_ratio.set(facts.boundary_ratio.value_or(0.875), Origin::kBuiltIn);
    g.guidance_scale_2.set(*g.guidance_scale, Origin::kBuiltIn);
    // The preset's second scale belongs to its first: a user's own first scale serves both unless
    // he gives two.
    if (g.guidance_scale.origin > g.guidance_scale_2.origin) {
      g.guidance_scale_2.value = *g.guidance_scale;
    }
  } else {
    for (const auto& [flag, setting] :
         {std::pair<const char*, const Setting<double>*>{"--guidance-scale-2", &g.guidance_scale_2},
          {"--boundary-ratio", &g.boundary_ratio}}) {
      if (setting->is_set && setting->origin >= Origin::kConfigFile) {
        throw InvalidInput(Code::kConflict,
                           str(flag, " needs a model with two transformers (Wan2.2-A14B)"));
      }
    }
  }
}

void choose_length(Generate& g, const ModelFacts& facts) {
  if (!g.fps.is_set) {
    g.fps.set(facts.vae_z == 48 ? 24 : 16, Origin::kBuiltIn);
  }
  if (g.seconds.is_set) {
    if (g.num_frames.is_set && g.num_frames.origin >= Origin::kConfigFile) {
      throw InvalidInput(Code::kConflict, "--seconds and --num-frames both say how long; give one");
    }
    const double frames = *g.seconds * static_cast<double>(*g.fps);
    const auto latents =
        std::llround(std::max(0.0, frames - 1) / static_cast<double>(facts.frames_per_latent));
    g.num_frames.set(latents * facts.frames_per_latent + 1, g.seconds.origin);
  }
  if (!g.num_frames.is_set) {
    g.num_frames.set(81, Origin::kBuiltIn);
  }
  if (!g.width.is_set) {
    g.width.set(832, Origin::kBuiltIn);
  }
  if (!g.height.is_set) {
    g.height.set(480, Origin::kBuiltIn);
  }
}

void check_sizes(const Generate& g, const ModelFacts& facts, const std::optional<Limits>& limits) {
  const std::string multiple = str("a multiple of ", facts.size_multiple);
  const std::string frames = str(facts.frames_per_latent, "k+1");
  const Step size{facts.size_multiple, facts.size_multiple, multiple.c_str()};
  const Step length{1, facts.frames_per_latent, frames.c_str()};
  check_size({"--width", size, limits ? limits->width : Range{}}, g.width, g);
  check_size({"--height", size, limits ? limits->height : Range{}}, g.height, g);
  check_size({"--num-frames", length, limits ? limits->num_frames : Range{}}, g.num_frames, g);
}

void choose_attention(Generate& g, const ModelFacts& facts, std::vector<std::string>& notes) {
  const bool asked = g.attention_backend.is_set && *g.attention_backend != AttentionBackend::kAuto;
  if (!asked) {
    g.attention_backend.value = facts.is_gated ? AttentionBackend::kVsa : AttentionBackend::kDense;
  } else if (facts.is_gated && *g.attention_backend == AttentionBackend::kDense) {
    notes.emplace_back("full attention on a sparse model: its gates are dropped");
  } else if (!facts.is_gated && *g.attention_backend == AttentionBackend::kVsa) {
    notes.emplace_back("sparse attention on a model without gates: there is no coarse term");
  }
  const bool is_sparse = *g.attention_backend == AttentionBackend::kVsa;
  if (!is_sparse && g.vsa_sparsity.is_set && g.vsa_sparsity.origin >= Origin::kConfigFile &&
      *g.vsa_sparsity > 0) {
    throw InvalidInput(Code::kConflict,
                       "--VSA-sparsity needs --attention-backend vsa; this model runs dense");
  }
}

void choose_seed(Generate& g) {
  if (*g.seed < 0) {
    std::random_device device;
    g.seed.value = static_cast<int64_t>(device() & 0x7fffffffU);
  }
}

}  // namespace

std::vector<std::string> resolve(Generate& g,
                                 const ModelFacts& facts,
                                 const std::optional<Preset>& folder_preset) {
  std::vector<std::string> notes;
  choose_presets(g, facts, folder_preset);
  choose_sampler(g, facts);
  if (*g.sampler == Sampler::kDmd) {
    check_few_step(g, notes);
  } else {
    check_many_step(g, facts);
    if (*g.guidance_scale <= 1.0 && g.negative_prompt.is_set &&
        g.negative_prompt.origin >= Origin::kConfigFile) {
      notes.emplace_back("the negative prompt has no effect: it needs guidance above 1");
    }
  }
  choose_length(g, facts);
  check_sizes(g, facts, folder_preset ? folder_preset->limits : std::nullopt);
  choose_attention(g, facts, notes);
  if (g.image.is_set && !facts.takes_image) {
    throw InvalidInput(Code::kUnsupportedModel,
                       "--image needs a model that takes a first frame (Wan2.2-TI2V-5B); this one "
                       "makes video from text alone");
  }
  if (!g.image.is_set && g.fit.is_set && g.fit.origin == Origin::kFlag) {
    notes.emplace_back("--fit has no effect without --image");
  }
  choose_seed(g);
  return notes;
}

Size best_output_size(Size image, int64_t area, int64_t multiple) {
  const double ratio = static_cast<double>(image.width) / static_cast<double>(image.height);
  const double wide = std::sqrt(static_cast<double>(area) * ratio);
  const double high = static_cast<double>(area) / wide;
  const auto floor_to = [multiple](double value) {
    return static_cast<int64_t>(std::floor(value / static_cast<double>(multiple))) * multiple;
  };
  const int64_t width1 = std::max(multiple, floor_to(wide));
  const Size first{width1, std::max(multiple, floor_to(static_cast<double>(area) /
                                                       static_cast<double>(width1)))};
  const int64_t height2 = std::max(multiple, floor_to(high));
  const Size second{
      std::max(multiple, floor_to(static_cast<double>(area) / static_cast<double>(height2))),
      height2};
  const auto misfit = [ratio](const Size& size) {
    const double own = static_cast<double>(size.width) / static_cast<double>(size.height);
    return std::max(ratio / own, own / ratio);
  };
  return misfit(first) < misfit(second) ? first : second;
}

}  // namespace fastwan::config
