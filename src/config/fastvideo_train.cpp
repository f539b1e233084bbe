#include "config/fastvideo_train.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"

namespace fastwan::config {
namespace {

using Values = std::map<std::string, YamlValue>;

// --- the YAML with _target_ ---------------------------------------------------------------------

std::string last_part(const std::string& dotted) {
  return dotted.substr(dotted.rfind('.') + 1);
}

std::string place(const std::string& origin, const std::string& key, const YamlValue& value) {
  return value.line > 0 ? str(origin, ":", value.line, ":", value.column, ": ", key) : "--" + key;
}

const std::string& only_text(const YamlValue& value, const std::string& where) {
  if (value.texts.size() != 1) {
    throw_bad_value(where, "a single text", str(value.texts.size(), " values"));
  }
  return value.texts[0];
}

// A word of our own, which stays as it is.
template <class E>
bool is_ours(const std::string& word) {
  const auto all = names(E{});
  return std::any_of(all.begin(), all.end(), [&word](const auto& e) { return word == e.name; });
}

void translate_network(YamlValue& value, const std::string& where) {
  const std::string& target = only_text(value, where);
  if (is_ours<NetworkKind>(target)) {
    return;
  }
  const std::string name = last_part(target);
  if (name != "WanModel") {
    const bool is_causal = name.find("Causal") != std::string::npos;
    throw InvalidInput(is_causal ? Code::kUnsupportedMethod : Code::kUnsupportedModel,
                       str(where, ": ", escape_control(name),
                           is_causal ? " belongs to methods of causal students, which are not here"
                                     : " is not a network here; WanModel is"));
  }
  value.texts = {name_of(NetworkKind::kWan)};
}

void translate_method(YamlValue& value, const std::string& where) {
  const std::string& target = only_text(value, where);
  if (is_ours<MethodKind>(target)) {
    return;
  }
  const std::string name = last_part(target);
  if (name == "FineTuneMethod") {
    value.texts = {name_of(MethodKind::kFinetune)};
  } else if (name == "DMD2Method") {
    value.texts = {name_of(MethodKind::kDistill)};
  } else {
    throw InvalidInput(Code::kUnsupportedMethod,
                       str(where, ": ", escape_control(name),
                           " is not a method here; FineTuneMethod (finetune) and DMD2Method "
                           "(distill) are"));
  }
}

// No effect here; named once. A key, or a group of keys with a dot at its end.
constexpr std::array<std::string_view, 33> kIgnored = {
    "callbacks.grad_clip.log_grad_norms",
    "callbacks.validation.num_videos_per_prompt",
    "callbacks.validation.offload_training_state",
    "callbacks.validation.output_dir",
    "callbacks.validation.pipeline_target",
    "callbacks.validation.unload_pipeline_after_validation",
    "callbacks.validation.use_validation_media_conditioning",
    "method.attn_kind",
    "method.cfg_uncond.action",
    "method.cfg_uncond.image",
    "method.cfg_uncond.on_missing",
    "pipeline.dit_config.",
    "pipeline.disable_autocast",
    "pipeline.dit_cpu_offload",
    "pipeline.dit_precision",
    "pipeline.embedded_cfg_scale",
    "pipeline.flow_shift_sr",
    "pipeline.is_causal",
    "pipeline.vae_config.",
    "pipeline.vae_precision",
    "pipeline.vae_sp",
    "pipeline.vae_tiling",
    "training.distributed.fsdp_modules_per_group",
    "training.distributed.fsdp_symmetric_memory",
    "training.distributed.pin_cpu_memory",
    "training.distributed.reshard_after_forward",
    "training.model.enable_torch_compile",
    "training.model.moba_config",
    "training.model.moba_config.",
    "training.optimizer.fused",
    "training.tracker.entity",
    "training.vsa.cache_tile_buf",
    "training.vsa.attn_kind",
};

bool is_ignored(const std::string& key) {
  if (key.starts_with("models.") && key.ends_with(".disable_custom_init_weights")) {
    return true;
  }
  return std::any_of(kIgnored.begin(), kIgnored.end(), [&key](std::string_view entry) {
    return entry.ends_with('.') ? key.starts_with(entry) : key == entry;
  });
}

bool has_group(const Values& values, const std::string& prefix) {
  const auto first = values.lower_bound(prefix);
  return first != values.end() && first->first.starts_with(prefix);
}

// Our names of the callbacks that a file has.
using CallbackNames = std::set<std::string>;

// There the name of a callback is free and its class counts.
CallbackNames rename_callbacks(Values& values, const std::string& origin) {
  constexpr std::array<std::pair<const char*, const char*>, 3> kClasses = {
      {{"GradNormClipCallback", "grad_clip"},
       {"EMACallback", "ema"},
       {"ValidationCallback", "validation"}}};
  std::vector<std::pair<std::string, std::string>> renames;  // prefix with a dot, ours
  CallbackNames present;
  for (auto entry = values.begin(); entry != values.end();) {
    const std::string key = entry->first;
    if (!key.starts_with("callbacks.") || !key.ends_with("._target_")) {
      ++entry;
      continue;
    }
    const std::string where = place(origin, key, entry->second);
    const std::string name = last_part(only_text(entry->second, where));
    const auto* known = std::find_if(kClasses.begin(), kClasses.end(),
                                     [&name](const auto& pair) { return name == pair.first; });
    if (known == kClasses.end()) {
      throw InvalidInput(Code::kBadValue,
                         str(where, ": ", escape_control(name),
                             " is not a callback here; GradNormClipCallback, EMACallback and "
                             "ValidationCallback are"));
    }
    renames.emplace_back(key.substr(0, key.size() - std::string_view("_target_").size()),
                         str("callbacks.", known->second, "."));
    present.insert(known->second);
    entry = values.erase(entry);
  }
  for (const auto& [theirs, ours] : renames) {
    if (theirs == ours) {
      continue;
    }
    for (auto entry = values.lower_bound(theirs);
         entry != values.end() && entry->first.starts_with(theirs);) {
      values[ours + entry->first.substr(theirs.size())] = entry->second;
      entry = values.erase(entry);
    }
  }
  for (const auto& [type, ours] : kClasses) {
    if (has_group(values, str("callbacks.", ours, "."))) {
      present.insert(ours);
    }
  }
  return present;
}

// A list of folders, or a map of folders to repeat factors, as one text.
void join_data_path(Values& values) {
  const std::string key = "training.data.data_path";
  const std::string prefix = key + ".";
  std::string joined;
  YamlValue at;
  for (auto entry = values.lower_bound(prefix);
       entry != values.end() && entry->first.starts_with(prefix);) {
    at = entry->second;
    joined += (joined.empty() ? "" : ",") + entry->first.substr(prefix.size()) + ":" +
              (at.texts.empty() ? "" : at.texts[0]);
    entry = values.erase(entry);
  }
  if (!joined.empty()) {
    at.texts = {joined};
    values[key] = at;
  } else if (const auto list = values.find(key);
             list != values.end() && list->second.texts.size() > 1) {
    std::string all;
    for (const std::string& folder : list->second.texts) {
      all += (all.empty() ? "" : ",") + folder;
    }
    list->second.texts = {all};
  }
}

bool is_text(const Values& values, const std::string& key, std::string_view text) {
  const auto found = values.find(key);
  return found != values.end() &&
         found->second.texts == std::vector<std::string>{std::string(text)};
}

void set_if_absent(Values& values, const std::string& key, const std::string& text) {
  values.emplace(key, YamlValue{{text}, 0, 0});
}

// The one text of a key; empty: it is not there, or a list.
std::string text_of(const Values& values, const std::string& key) {
  const auto found = values.find(key);
  return found != values.end() && found->second.texts.size() == 1 ? found->second.texts[0] : "";
}

// Trackers that are services, or none; of several the others stay.
void leave_out_trackers(Values& values, std::vector<std::string>& notes) {
  const auto found = values.find("training.tracker.trackers");
  if (found == values.end()) {
    return;
  }
  std::vector<std::string> kept, left_out;
  for (const std::string& text : found->second.texts) {
    for (const std::string& part : split(text, ',')) {
      const std::string tracker(trim(part));
      const bool is_ours = tracker != "wandb" && tracker != "swanlab" && tracker != "none";
      (is_ours ? kept : left_out).push_back(tracker);
    }
  }
  if (left_out.empty()) {
    return;
  }
  notes.push_back(str("training.tracker.trackers ", join_first(left_out, left_out.size()),
                      kept.empty() ? ": metrics go to a JSONL file" : ": left out"));
  if (kept.empty()) {
    values.erase(found);
  } else {
    found->second.texts = kept;
  }
}

// It does not reach the rate there; 0 and 1 stand in files.
void leave_out_cycles(Values& values, std::vector<std::string>& notes) {
  const std::string key = "training.optimizer.lr_num_cycles";
  const std::string text = text_of(values, key);
  const std::optional<double> cycles = parse_double(text);
  constexpr double kHalfWave = 0.5;
  if (cycles && *cycles != 0 && *cycles != 1 && *cycles != kHalfWave) {
    notes.push_back(key + " " + text +
                    ": FastVideo's rates fall once whatever it says, and so here");
  }
  values.erase(key);
}

// bf16 masters and warm-up of a constant rate, which FastVideo accepts and does not honour.
void mend_values(Values& values, std::vector<std::string>& notes) {
  if (is_text(values, "training.dit_precision", "bf16")) {
    values.erase("training.dit_precision");
    notes.emplace_back(
        "training.dit_precision bf16: masters stay fp32; frozen weights and the "
        "arithmetic are bf16");
  }
  const auto is_constant = [&values](const char* key) {
    return !values.contains(key) || is_text(values, key, "constant");
  };
  if (is_constant("training.optimizer.lr_scheduler") &&
      is_constant("method.fake_score_lr_scheduler") &&
      values.contains("training.optimizer.lr_warmup_steps") &&
      !is_text(values, "training.optimizer.lr_warmup_steps", "0")) {
    values.erase("training.optimizer.lr_warmup_steps");
    notes.emplace_back(
        "training.optimizer.lr_warmup_steps: a constant rate has no warm-up, there "
        "neither; constant_with_warmup has");
  }
  leave_out_cycles(values, notes);
  if (!is_text(values, "training.optimizer.lr_scheduler", "polynomial")) {
    values.erase("training.optimizer.lr_power");
  }
  for (const char* key : {"sigma_sqrt", "cosmap"}) {
    if (is_text(values, "training.model.weighting_scheme", key)) {
      values["training.model.weighting_scheme"].texts = {"uniform"};
      notes.push_back(str("training.model.weighting_scheme ", key, ": uniform, as it acts there"));
    }
  }
  leave_out_trackers(values, notes);
  const std::string rollout = to_lower(text_of(values, "method.rollout_mode"));
  if (rollout == "sim") {
    values["method.rollout_mode"].texts = {"simulate"};
  } else if (rollout == "data" || rollout == "vae_latent") {
    values["method.rollout_mode"].texts = {"data_latent"};
  }
}

// What a distillation of FastVideo means by leaving keys out.
void apply_their_distillation(Values& values, std::vector<std::string>& notes) {
  set_if_absent(values, "method.generator_update_interval", "1");
  set_if_absent(values, "method.real_score_guidance_scale", "1");
  set_if_absent(values, "method.k_scope", "group");  // each process draws its own there
  if (!values.contains("method.min_timestep_ratio") ||
      !values.contains("method.max_timestep_ratio")) {
    notes.emplace_back(
        "method.min_timestep_ratio, max_timestep_ratio: 0.02 and 0.98 where they are left out, as "
        "in the published runs; FastVideo takes 0 and 1 then, its older trainer 0.2 and 0.98");
  }
  // There pipeline.flow_shift also moves the score timesteps.
  const std::string shift = text_of(values, "pipeline.flow_shift");
  if (shift.empty()) {
    return;
  }
  for (const char* role : {"student", "teacher", "critic"}) {
    if (has_group(values, str("models.", role, "."))) {
      set_if_absent(values, str("models.", role, ".flow_shift"), shift);
    }
  }
  const std::string own = text_of(values, "models.student.flow_shift");
  if (!own.empty() && parse_double(own) != parse_double(shift)) {
    notes.push_back(str("models.student.flow_shift ", own, " moves the score timesteps here; in ",
                        "FastVideo pipeline.flow_shift ", shift, " does"));
  }
}

// What a file of FastVideo means by leaving keys out.
void apply_their_defaults(Values& values,
                          const CallbackNames& callbacks,
                          std::vector<std::string>& notes) {
  if (is_text(values, "method._target_", name_of(MethodKind::kDistill))) {
    apply_their_distillation(values, notes);
  } else {
    set_if_absent(values, "training.data.training_cfg_rate", "0");
  }
  if (const std::string processes = text_of(values, "training.distributed.num_gpus");
      !processes.empty()) {
    set_if_absent(values, "training.distributed.sp_size", processes);
  }
  set_if_absent(values, "training.checkpoint.training_state_checkpointing_steps", "0");
  set_if_absent(values, "training.checkpoint.checkpoints_total_limit", "0");
  set_if_absent(values, "training.optimizer.weight_decay", "0");
  set_if_absent(values, "training.model.mode_scale", "1");
  set_if_absent(values, "pipeline.negative_prompt", wan_negative_prompt());
  set_if_absent(values, "callbacks.grad_clip.max_grad_norm",
                callbacks.contains("grad_clip") ? "1" : "0");
  if (callbacks.contains("ema")) {
    set_if_absent(values, "callbacks.ema.decay", "0.9999");
  }
  if (callbacks.contains("validation")) {
    set_if_absent(values, "callbacks.validation.every_steps", "100");
  }
}

// --- the YAML of the older trainer --------------------------------------------------------------

// Its keys, and the flat flags that they replaced.
constexpr std::array<std::pair<std::string_view, std::string_view>, 43> kOlderKeys = {{
    {"engine.attention.vsa_sparsity", "vsa-sparsity"},
    {"engine.num_gpus", "num-gpus"},
    {"engine.parallelism.dist_timeout", "dist-timeout"},
    {"engine.parallelism.hsdp_replicate_dim", "hsdp-replicate-dim"},
    {"engine.parallelism.hsdp_shard_dim", "hsdp-shard-dim"},
    {"engine.parallelism.sp_size", "sp-size"},
    {"engine.parallelism.tp_size", "tp-size"},
    {"engine.precision.dit", "dit-precision"},
    {"model_path", "model-path"},
    {"pipeline.components.transformer_weights", "init-weights-from-safetensors"},
    {"pipeline.dmd_denoising_steps", "dmd-denoising-steps"},
    {"pipeline.flow_shift", "flow-shift"},
    {"training.checkpoint.weight_only_checkpointing_steps", "weight-only-checkpointing-steps"},
    {"training.data.train_sp_batch_size", "train-sp-batch-size"},
    {"training.data.training_cfg_rate", "training-cfg-rate"},
    {"training.distillation.fake_score_betas", "fake-score-betas"},
    {"training.distillation.fake_score_learning_rate", "fake-score-learning-rate"},
    {"training.distillation.fake_score_lr_scheduler", "fake-score-lr-scheduler"},
    {"training.distillation.fake_score_model_path", "fake-score-model-path"},
    {"training.distillation.generator_update_interval", "generator-update-interval"},
    {"training.distillation.max_timestep_ratio", "max-timestep-ratio"},
    {"training.distillation.min_timestep_ratio", "min-timestep-ratio"},
    {"training.distillation.real_score_guidance_scale", "real-score-guidance-scale"},
    {"training.distillation.real_score_model_path", "real-score-model-path"},
    {"training.distillation.simulate_generator_forward", "simulate-generator-forward"},
    {"training.distillation.warp_denoising_step", "warp-denoising-step"},
    {"training.ema.decay", "ema-decay"},
    {"training.ema.enabled", "use-ema"},
    {"training.ema.start_step", "ema-start-step"},
    {"training.lora.alpha", "lora-alpha"},
    {"training.lora.enabled", "lora-training"},
    {"training.lora.rank", "lora-rank"},
    {"training.model.enable_gradient_checkpointing_type", "enable-gradient-checkpointing-type"},
    {"training.model.mode_scale", "mode-scale"},
    {"training.optimizer.max_grad_norm", "max-grad-norm"},
    {"training.validation.dataset_file", "validation-dataset-file"},
    {"training.validation.enabled", "log-validation"},
    {"training.validation.every_steps", "validation-steps"},
    {"training.validation.guidance_scale", "validation-guidance-scale"},
    {"training.validation.log_visualization", "log-visualization"},
    {"training.validation.sampling_steps", "validation-sampling-steps"},
    {"training.vsa.decay_interval_steps", "vsa-decay-interval-steps"},
    {"training.vsa.decay_rate", "vsa-decay-rate"},
}};

bool is_of_older_trainer(const Values& values) {
  return has_group(values, "engine.") || has_group(values, "training.distillation.") ||
         has_group(values, "training.lora.");
}

// Its keys become flat flags, and these become ours; what is ours already stays.
std::vector<std::string> translate_older_file(Values& values, const std::string& origin) {
  std::vector<std::pair<std::string, std::string>> flags;
  const auto forcing = values.lower_bound("training.self_forcing.");
  if (forcing != values.end() && forcing->first.starts_with("training.self_forcing.")) {
    throw InvalidInput(Code::kUnsupportedMethod, place(origin, forcing->first, forcing->second) +
                                                     " belongs to Self-Forcing, which is not here");
  }
  for (const auto& [key, flag] : kOlderKeys) {
    const auto found = values.find(std::string(key));
    if (found == values.end()) {
      continue;
    }
    std::string text;
    for (const std::string& part : found->second.texts) {
      text += (text.empty() ? "" : ",") + part;
    }
    flags.emplace_back(flag, text);
    values.erase(found);
  }
  FlatFlags translated = translate_flat_flags(flags, std::nullopt, /*is_complete=*/true);
  for (const auto& [key, text] : translated.overrides) {
    set_if_absent(values, key, text);
  }
  return translated.notes;
}

}  // namespace

std::vector<std::string> translate_train_values(Values& values, const std::string& origin) {
  std::vector<std::string> notes;
  if (is_of_older_trainer(values)) {
    notes = translate_older_file(values, origin);
  }
  bool is_fastvideo = false;
  for (auto& [key, value] : values) {
    const std::string where = place(origin, key, value);
    if (key == "method._target_") {
      const std::vector<std::string> before = value.texts;
      translate_method(value, where);
      is_fastvideo = value.texts != before;
    } else if (key.starts_with("models.") && key.ends_with("._target_")) {
      translate_network(value, where);
    }
  }
  const CallbackNames callbacks = rename_callbacks(values, origin);
  join_data_path(values);
  if (!is_fastvideo) {
    return notes;
  }
  std::vector<std::string> ignored;
  for (auto entry = values.begin(); entry != values.end();) {
    if (is_ignored(entry->first)) {
      ignored.push_back(entry->first);
      entry = values.erase(entry);
    } else {
      ++entry;
    }
  }
  if (!ignored.empty()) {
    notes.push_back(str(origin, ": no effect here: ", join_first(ignored, 40)));
  }
  mend_values(values, notes);
  apply_their_defaults(values, callbacks, notes);
  return notes;
}

// --- flat flags ---------------------------------------------------------------------------------

enum class FlagUse {
  kKey,      // value goes to `key`
  kSwitch,   // true or false goes to `key`
  kSpecial,  // handled by name
  kSpecialSwitch,
  kNothing,  // has a value, means nothing here
  kNothingSwitch,
  kUnsupported,  // of a method that is not here
};

struct FlatFlag {
  std::string_view name;
  FlagUse use = FlagUse::kKey;
  const char* key = "";
  bool distills = false;  // belongs to distillation alone
};

namespace {

constexpr std::array kFlatFlags = {
    // data
    FlatFlag{"data-path", FlagUse::kKey, "training.data.data_path"},
    FlatFlag{"dataloader-num-workers", FlagUse::kKey, "training.data.dataloader_num_workers"},
    FlatFlag{"train-batch-size", FlagUse::kKey, "training.data.train_batch_size"},
    FlatFlag{"training-cfg-rate", FlagUse::kKey, "training.data.training_cfg_rate"},
    FlatFlag{"seed", FlagUse::kKey, "training.data.seed"},
    FlatFlag{"num-latent-t", FlagUse::kKey, "training.data.num_latent_t"},
    FlatFlag{"num-height", FlagUse::kKey, "training.data.num_height"},
    FlatFlag{"num-width", FlagUse::kKey, "training.data.num_width"},
    FlatFlag{"num-frames", FlagUse::kKey, "training.data.num_frames"},
    FlatFlag{"train-sp-batch-size", FlagUse::kNothing},
    FlatFlag{"group-frame", FlagUse::kNothingSwitch},
    FlatFlag{"group-resolution", FlagUse::kNothingSwitch},
    FlatFlag{"cache-dir", FlagUse::kNothing},
    // optimizer and loop
    FlatFlag{"learning-rate", FlagUse::kKey, "training.optimizer.learning_rate"},
    FlatFlag{"betas", FlagUse::kKey, "training.optimizer.betas"},
    FlatFlag{"weight-decay", FlagUse::kKey, "training.optimizer.weight_decay"},
    FlatFlag{"lr-scheduler", FlagUse::kKey, "training.optimizer.lr_scheduler"},
    FlatFlag{"lr-warmup-steps", FlagUse::kKey, "training.optimizer.lr_warmup_steps"},
    FlatFlag{"lr-num-cycles", FlagUse::kKey, "training.optimizer.lr_num_cycles"},
    FlatFlag{"lr-power", FlagUse::kKey, "training.optimizer.lr_power"},
    FlatFlag{"min-lr-ratio", FlagUse::kKey, "training.optimizer.min_lr_ratio"},
    FlatFlag{"max-grad-norm", FlagUse::kKey, "callbacks.grad_clip.max_grad_norm"},
    FlatFlag{"max-train-steps", FlagUse::kKey, "training.loop.max_train_steps"},
    FlatFlag{"gradient-accumulation-steps", FlagUse::kKey,
             "training.loop.gradient_accumulation_steps"},
    FlatFlag{"mixed-precision", FlagUse::kSpecial},
    FlatFlag{"dit-precision", FlagUse::kKey, "training.dit_precision"},
    FlatFlag{"enable-gradient-checkpointing-type", FlagUse::kSpecial},
    FlatFlag{"selective-checkpointing", FlagUse::kNothing},
    FlatFlag{"master-weight-type", FlagUse::kNothing},
    FlatFlag{"fsdp-sharding-strategy", FlagUse::kNothing},
    FlatFlag{"num-train-epochs", FlagUse::kNothing},
    FlatFlag{"scale-lr", FlagUse::kNothingSwitch},
    FlatFlag{"allow-tf32", FlagUse::kNothingSwitch},
    FlatFlag{"inference-mode", FlagUse::kNothingSwitch},
    FlatFlag{"pin-cpu-memory", FlagUse::kNothingSwitch},
    // timesteps
    FlatFlag{"weighting-scheme", FlagUse::kKey, "training.model.weighting_scheme"},
    FlatFlag{"logit-mean", FlagUse::kKey, "training.model.logit_mean"},
    FlatFlag{"logit-std", FlagUse::kKey, "training.model.logit_std"},
    FlatFlag{"mode-scale", FlagUse::kKey, "training.model.mode_scale"},
    FlatFlag{"precondition-outputs", FlagUse::kSwitch, "training.model.precondition_outputs"},
    FlatFlag{"flow-shift", FlagUse::kSpecial},
    FlatFlag{"boundary-ratio", FlagUse::kKey, "method.boundary_ratio"},
    // of consistency distillation, which their trainer no longer has; its scripts still name some
    FlatFlag{"distill-cfg", FlagUse::kNothing},
    FlatFlag{"hunyuan-teacher-disable-cfg", FlagUse::kNothingSwitch},
    FlatFlag{"linear-quadratic-threshold", FlagUse::kNothing},
    FlatFlag{"linear-range", FlagUse::kNothing},
    FlatFlag{"multi-phased-distill-schedule", FlagUse::kNothing},
    FlatFlag{"not-apply-cfg-solver", FlagUse::kNothingSwitch},
    FlatFlag{"num-euler-timesteps", FlagUse::kNothing},
    FlatFlag{"pred-decay-type", FlagUse::kNothing},
    FlatFlag{"pred-decay-weight", FlagUse::kNothing},
    FlatFlag{"scheduler-type", FlagUse::kNothing},
    // models
    FlatFlag{"model-path", FlagUse::kSpecial},
    FlatFlag{"pretrained-model-name-or-path", FlagUse::kSpecial},
    FlatFlag{"real-score-model-path", FlagUse::kKey, "models.teacher.init_from", true},
    FlatFlag{"fake-score-model-path", FlagUse::kKey, "models.critic.init_from", true},
    FlatFlag{"init-weights-from-safetensors", FlagUse::kSpecial},
    FlatFlag{"dit-model-name-or-path", FlagUse::kNothing},
    FlatFlag{"generator-model-path", FlagUse::kNothing},
    FlatFlag{"lora-training", FlagUse::kSpecialSwitch},
    FlatFlag{"lora-rank", FlagUse::kSpecial},
    FlatFlag{"lora-alpha", FlagUse::kSpecial},
    // distillation
    FlatFlag{"generator-update-interval", FlagUse::kKey, "method.generator_update_interval", true},
    FlatFlag{"dfake-gen-update-ratio", FlagUse::kKey, "method.generator_update_interval", true},
    FlatFlag{"dmd-denoising-steps", FlagUse::kKey, "method.dmd_denoising_steps", true},
    FlatFlag{"warp-denoising-step", FlagUse::kSwitch, "method.warp_denoising_step", true},
    FlatFlag{"real-score-guidance-scale", FlagUse::kSpecial, "", true},
    FlatFlag{"fake-score-learning-rate", FlagUse::kKey, "method.fake_score_learning_rate", true},
    FlatFlag{"fake-score-betas", FlagUse::kKey, "method.fake_score_betas", true},
    FlatFlag{"fake-score-lr-scheduler", FlagUse::kKey, "method.fake_score_lr_scheduler", true},
    FlatFlag{"min-timestep-ratio", FlagUse::kKey, "method.min_timestep_ratio", true},
    FlatFlag{"max-timestep-ratio", FlagUse::kKey, "method.max_timestep_ratio", true},
    FlatFlag{"simulate-generator-forward", FlagUse::kSpecialSwitch, "", true},
    // sparse attention
    FlatFlag{"vsa-sparsity", FlagUse::kKey, "training.vsa.sparsity"},
    FlatFlag{"vsa-decay-rate", FlagUse::kKey, "training.vsa.VSA_decay_rate"},
    FlatFlag{"vsa-decay-interval-steps", FlagUse::kKey, "training.vsa.VSA_decay_interval_steps"},
    FlatFlag{"topk-rule", FlagUse::kKey, "training.vsa.topk_rule"},
    FlatFlag{"vsa-cache-tile-buf", FlagUse::kNothingSwitch},
    FlatFlag{"moba-config-path", FlagUse::kNothing},
    // averages
    FlatFlag{"use-ema", FlagUse::kSpecialSwitch},
    FlatFlag{"ema-decay", FlagUse::kSpecial},
    FlatFlag{"ema-start-step", FlagUse::kSpecial},
    // processes
    FlatFlag{"num-gpus", FlagUse::kKey, "training.distributed.num_gpus"},
    FlatFlag{"sp-size", FlagUse::kKey, "training.distributed.sp_size"},
    FlatFlag{"tp-size", FlagUse::kKey, "training.distributed.tp_size"},
    FlatFlag{"hsdp-replicate-dim", FlagUse::kKey, "training.distributed.hsdp_replicate_dim"},
    FlatFlag{"hsdp-shard-dim", FlagUse::kKey, "training.distributed.hsdp_shard_dim"},
    FlatFlag{"dist-timeout", FlagUse::kKey, "training.distributed.dist_timeout"},
    FlatFlag{"local-rank", FlagUse::kNothing},
    FlatFlag{"master-port", FlagUse::kNothing},
    // checkpoints and trackers
    FlatFlag{"output-dir", FlagUse::kKey, "training.checkpoint.output_dir"},
    FlatFlag{"training-state-checkpointing-steps", FlagUse::kKey,
             "training.checkpoint.training_state_checkpointing_steps"},
    FlatFlag{"weight-only-checkpointing-steps", FlagUse::kKey,
             "training.checkpoint.weight_only_checkpointing_steps"},
    FlatFlag{"checkpointing-steps", FlagUse::kSpecial},
    FlatFlag{"checkpoints-total-limit", FlagUse::kKey,
             "training.checkpoint.checkpoints_total_limit"},
    FlatFlag{"tracker-project-name", FlagUse::kKey, "training.tracker.project_name"},
    FlatFlag{"wandb-run-name", FlagUse::kKey, "training.tracker.run_name"},
    FlatFlag{"trackers", FlagUse::kKey, "training.tracker.trackers"},
    FlatFlag{"logging-dir", FlagUse::kNothing},
    FlatFlag{"log-visualization", FlagUse::kSwitch, "training.tracker.log_visualization"},
    FlatFlag{"visualization-steps", FlagUse::kNothing},
    // validation
    FlatFlag{"log-validation", FlagUse::kSpecialSwitch},
    FlatFlag{"validation-dataset-file", FlagUse::kSpecial},
    FlatFlag{"validation-steps", FlagUse::kSpecial},
    FlatFlag{"validation-sampling-steps", FlagUse::kSpecial},
    FlatFlag{"validation-guidance-scale", FlagUse::kSpecial},
    FlatFlag{"validation-preprocessed-path", FlagUse::kNothing},
    // Self-Forcing
    FlatFlag{"num-frame-per-block", FlagUse::kUnsupported},
    FlatFlag{"num-frames-per-block", FlagUse::kUnsupported},
    FlatFlag{"independent-first-frame", FlagUse::kUnsupported},
    FlatFlag{"same-step-across-blocks", FlagUse::kUnsupported},
    FlatFlag{"last-step-only", FlagUse::kUnsupported},
    FlatFlag{"context-noise", FlagUse::kUnsupported},
    FlatFlag{"enable-gradient-masking", FlagUse::kUnsupported},
    FlatFlag{"gradient-mask-last-n-frames", FlagUse::kUnsupported},
    FlatFlag{"validate-cache-structure", FlagUse::kUnsupported},
};

// The flags of one command, looked up by name.
class Given {
 public:
  Given(const std::vector<std::pair<std::string, std::string>>& given, FlatFlags& out) : out_(out) {
    for (const auto& [name, value] : given) {
      const auto [first, is_new] = values_.emplace(name, value);
      if (!is_new && first->second != value) {
        throw InvalidInput(Code::kConflict, str("--", name, " is given twice"));
      }
      if (!is_new) {  // as a script of theirs does
        note(str("--", name, " is given twice, with the same value"));
      }
    }
  }

  std::optional<std::string> value(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::nullopt : std::optional(found->second);
  }
  bool is_on(const std::string& name) const {
    const auto text = value(name);
    return text && to_bool(*text, "--" + name);
  }
  void set(const std::string& key, const std::string& text) {
    out_.overrides.emplace_back(key, text);
  }
  // Moves the value of a flag to a key.
  void move(const std::string& name, const std::string& key) {
    if (const auto text = value(name)) {
      set(key, *text);
    }
  }
  void note(std::string text) { out_.notes.push_back(std::move(text)); }

 private:
  std::map<std::string, std::string> values_;
  FlatFlags& out_;
};

using Roles = std::vector<std::string>;

void translate_models(Given& flags, const Roles& roles, bool is_complete) {
  const auto path = flags.value("model-path");
  const auto old_path = flags.value("pretrained-model-name-or-path");
  if (const auto base = path ? path : old_path) {
    for (const std::string& role : roles) {
      const char* own = role == "teacher"  ? "real-score-model-path"
                        : role == "critic" ? "fake-score-model-path"
                                           : "init-weights-from-safetensors";
      if (!flags.value(own)) {
        flags.set("models." + role + ".init_from", *base);
      }
    }
    flags.set("training.model_path", *base);
  }
  if (path && old_path && *path != *old_path) {
    flags.note("--pretrained-model-name-or-path: --model-path is taken");
  }
  flags.move("init-weights-from-safetensors", "models.student.init_from");
  for (const std::string& role : roles) {
    if (role == "teacher") {
      continue;
    }
    const std::string at = "models." + role + ".lora.";
    if (flags.is_on("lora-training")) {
      flags.set(at + "enable", "true");
    }
    flags.move("lora-rank", at + "rank");
    flags.move("lora-alpha", at + "alpha");
  }
  if (const auto shift = flags.value("flow-shift")) {
    flags.set("pipeline.flow_shift", *shift);
    for (const std::string& role : roles) {
      flags.set("models." + role + ".flow_shift", *shift);
    }
    if (roles.size() == 1 && is_complete && parse_double(*shift) != 1.0) {
      flags.note("--flow-shift " + *shift +
                 " also moves the training noise here; FastVideo's "
                 "finetuning trains at shift 1 (models.student.flow_shift=1)");
    }
  } else if (roles.size() == 1 && is_complete) {
    flags.note(
        "without --flow-shift the training noise is shifted by models.student.flow_shift's default "
        "here; FastVideo's finetuning trains at shift 1 (models.student.flow_shift=1)");
  }
}

void translate_distillation(Given& flags) {
  if (const auto w = flags.value("real-score-guidance-scale")) {
    const double scale = to_number(*w, {-1, 99}, "--real-score-guidance-scale") + 1;
    flags.set("method.real_score_guidance_scale", format_number(scale));
    flags.note(str("--real-score-guidance-scale ", *w, " is ", format_number(scale),
                   " on the standard scale, which counts the conditional term too"));
  }
  if (flags.value("simulate-generator-forward")) {
    flags.set("method.rollout_mode",
              flags.is_on("simulate-generator-forward") ? "simulate" : "data_latent");
  }
}

void translate_validation(Given& flags, bool is_complete) {
  const bool is_on = flags.is_on("log-validation");
  if (is_complete && !is_on) {
    return;
  }
  flags.move("validation-dataset-file", "callbacks.validation.dataset_file");
  flags.move("validation-steps", "callbacks.validation.every_steps");
  flags.move("validation-sampling-steps", "callbacks.validation.sampling_steps");
  flags.move("validation-guidance-scale", "callbacks.validation.guidance_scale");
}

void translate_averages(Given& flags, bool is_complete) {
  if (flags.is_on("use-ema") || (!is_complete && flags.value("ema-decay"))) {
    flags.set("callbacks.ema.decay", flags.value("ema-decay").value_or("0.999"));
    flags.move("ema-start-step", "callbacks.ema.start_iter");
  } else if (flags.value("ema-decay") || flags.value("ema-start-step")) {
    flags.note(
        "--ema-start-step, --ema-decay without --use-ema: FastVideo keeps an average that "
        "nothing reads; none is kept here");
  }
}

// Names that differ between the two, and values that do.
void translate_rest(Given& flags) {
  if (const auto kind = flags.value("mixed-precision")) {
    flags.set("training.compute_dtype", *kind == "no" ? "fp32" : *kind);
  }
  if (const auto kind = flags.value("enable-gradient-checkpointing-type")) {
    flags.set("training.model.enable_gradient_checkpointing_type",
              kind->empty() || to_lower(*kind) == "none" ? "none" : *kind);
  }
  if (const auto every = flags.value("checkpointing-steps")) {
    flags.set("training.checkpoint.training_state_checkpointing_steps", *every);
    flags.set("training.checkpoint.weight_only_checkpointing_steps", *every);
  }
}

// What FastVideo's trainer takes for flags that a run leaves out.
void add_their_defaults(Given& flags, MethodKind method) {
  const bool distills = method == MethodKind::kDistill;
  const auto set_unless = [&flags](const char* flag, const char* key, const char* text) {
    if (!flags.value(flag)) {
      flags.set(key, text);
    }
  };
  set_unless("training-cfg-rate", "training.data.training_cfg_rate", "0");
  set_unless("sp-size", "training.distributed.sp_size", "1");
  set_unless("mode-scale", "training.model.mode_scale", "1.29");
  set_unless("enable-gradient-checkpointing-type",
             "training.model.enable_gradient_checkpointing_type", "none");
  if (!distills && flags.value("vsa-sparsity")) {
    set_unless("vsa-decay-rate", "training.vsa.VSA_decay_rate", "0.01");
    set_unless("vsa-decay-interval-steps", "training.vsa.VSA_decay_interval_steps", "1");
  }
  if (distills) {
    set_unless("fake-score-lr-scheduler", "method.fake_score_lr_scheduler", "constant");
    set_unless("fake-score-betas", "method.fake_score_betas", "0.9,0.999");
    set_unless("real-score-guidance-scale", "method.real_score_guidance_scale", "4.5");
    if (!flags.value("dfake-gen-update-ratio")) {
      set_unless("generator-update-interval", "method.generator_update_interval", "5");
    }
  }
}

}  // namespace

const FlatFlag* find_flat_flag(std::string_view name) {
  const auto* found = std::find_if(kFlatFlags.begin(), kFlatFlags.end(),
                                   [name](const FlatFlag& flag) { return flag.name == name; });
  if (found == kFlatFlags.end()) {
    return nullptr;
  }
  if (found->use == FlagUse::kUnsupported) {
    throw InvalidInput(Code::kUnsupportedMethod,
                       str("--", name, " belongs to Self-Forcing, which is not here"));
  }
  return found;
}

bool is_switch(const FlatFlag& flag) {
  return flag.use == FlagUse::kSwitch || flag.use == FlagUse::kSpecialSwitch ||
         flag.use == FlagUse::kNothingSwitch;
}

std::vector<std::string> flat_flag_names() {
  std::vector<std::string> out;
  for (const FlatFlag& flag : kFlatFlags) {
    out.push_back(str("--", flag.name));
  }
  return out;
}

FlatFlags translate_flat_flags(const std::vector<std::pair<std::string, std::string>>& given,
                               std::optional<MethodKind> method,
                               bool is_complete) {
  FlatFlags out;
  Given flags(given, out);
  std::vector<std::string> ignored;
  bool has_distillation = false;
  for (const auto& [name, value] : given) {
    const FlatFlag* flag = find_flat_flag(name);
    invariant(flag != nullptr, "flat flags are looked up before they are translated");
    has_distillation = has_distillation || flag->distills;
    if (flag->use == FlagUse::kKey) {
      flags.set(flag->key, value);
    } else if (flag->use == FlagUse::kSwitch) {
      flags.set(flag->key, flags.is_on(name) ? "true" : "false");
    } else if (flag->use == FlagUse::kNothing || flag->use == FlagUse::kNothingSwitch) {
      ignored.push_back("--" + name);
    }
  }
  const MethodKind kind =
      method.value_or(has_distillation ? MethodKind::kDistill : MethodKind::kFinetune);
  const Roles roles =
      kind == MethodKind::kDistill ? Roles{"student", "teacher", "critic"} : Roles{"student"};
  translate_models(flags, roles, is_complete);
  translate_distillation(flags);
  translate_validation(flags, is_complete);
  translate_averages(flags, is_complete);
  translate_rest(flags);
  if (is_complete) {
    // By their class, so that what holds for their files holds here.
    flags.set("method._target_", kind == MethodKind::kDistill    ? "DMD2Method"
                                 : kind == MethodKind::kFinetune ? "FineTuneMethod"
                                                                 : name_of(kind));
    add_their_defaults(flags, kind);
  }
  if (!ignored.empty()) {
    out.notes.push_back("no effect here: " + join_first(ignored, 40));
  }
  return out;
}

}  // namespace fastwan::config
