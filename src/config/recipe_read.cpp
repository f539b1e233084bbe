// Texts to a complete recipe: read, translate, assign, resolve, check.
#include <algorithm>
#include <set>
#include <type_traits>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"
#include "config/fastvideo_train.h"
#include "config/presets.h"
#include "config/recipe.h"
#include "config/yaml_reader.h"

namespace fastwan::config {
namespace {

constexpr int64_t kMaxBytes = 1 << 20;
constexpr std::array<const char*, 3> kRoles = {"student", "teacher", "critic"};
constexpr const char* kMethodKey = "method._target_";

// Where a value stands: in the file, or on the command line.
std::string place(const std::string& origin, const std::string& key, const YamlValue& value) {
  return value.line > 0 ? str(origin, ":", value.line, ":", value.column, ": ", key) : "--" + key;
}

template <class T>
constexpr bool is_list(const T&) {
  return std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<std::string>> ||
         std::is_same_v<T, std::array<double, 2>>;
}

// [a, b], as in a file.
std::vector<std::string> list_of(const std::string& text, const std::string& where) {
  std::map<std::string, YamlValue> values = read_yaml("value: " + text, where);
  const auto found = values.find("value");
  if (found == values.end()) {
    throw_bad_value(where, "a list of plain values", text);
  }
  return found->second.texts;
}

struct FromValues {
  const std::map<std::string, YamlValue>& values;
  const std::string& origin;
  std::set<std::string> used = {};
  std::vector<std::string> keys = {};

  template <class T>
  void field(const RecipeField& info, T& value) {
    keys.push_back(info.key);
    const auto found = values.find(info.key);
    if (found == values.end()) {
      return;
    }
    used.insert(info.key);
    const YamlValue& given = found->second;
    std::vector<std::string> texts = given.texts;
    if (is_list(value) && given.line == 0 && texts.size() == 1 && texts[0].starts_with('[')) {
      texts = list_of(texts[0], place(origin, info.key, given));
    }
    if (info.splits_commas && texts.size() == 1) {
      texts = split(texts[0], ',');
    }
    assign(value, texts, info.range, place(origin, info.key, given));
  }
};

MethodKind method_of(const std::map<std::string, YamlValue>& values, const std::string& origin) {
  const auto found = values.find(kMethodKey);
  if (found == values.end()) {
    throw InvalidInput(Code::kBadConfig, str(origin, ": ", kMethodKey,
                                             " is not given: finetune, distill, ode, vae, "
                                             "text or features"));
  }
  MethodKind kind{};
  assign(kind, found->second.texts, {}, place(origin, kMethodKey, found->second));
  return kind;
}

// The defaults of a method, with the roles that the values name.
Recipe defaults_for(MethodKind method, const std::map<std::string, YamlValue>& values) {
  Recipe r;
  r.method.kind = method;
  for (const char* role : kRoles) {
    const std::string prefix = str("models.", role, ".");
    const auto first = values.lower_bound(prefix);
    if (first != values.end() && first->first.starts_with(prefix)) {
      r.models[role].trainable = std::string_view(role) != "teacher";
    }
  }
  if (method == MethodKind::kFinetune) {
    r.training.data.training_cfg_rate = 0.1;
  }
  for (auto& [role, model] : r.models) {
    model.kind = method == MethodKind::kVae        ? NetworkKind::kWanVae
                 : method == MethodKind::kText     ? NetworkKind::kUmt5
                 : method == MethodKind::kFeatures ? NetworkKind::kFeatureNet
                                                   : NetworkKind::kWan;
  }
  return r;
}

void resolve_distributed(Distributed& d) {
  d.tp_size = d.tp_size == -1 ? 1 : d.tp_size;
  const bool shards_are_open = d.hsdp_shard_dim <= 0;
  if (d.hsdp_replicate_dim <= 0) {
    d.hsdp_replicate_dim =
        shards_are_open ? 1 : std::max<int64_t>(1, d.num_gpus / d.hsdp_shard_dim);
  }
  if (shards_are_open) {
    d.hsdp_shard_dim = std::max<int64_t>(1, d.num_gpus / d.hsdp_replicate_dim);
  }
}

void resolve_role(const std::string& role, RoleModel& model, const Training& training) {
  if (model.attention_backend == AttentionBackend::kAuto) {
    const bool is_sparse = role == "student" && training.vsa.sparsity > 0;
    model.attention_backend = is_sparse ? AttentionBackend::kVsa : AttentionBackend::kDense;
  }
  if (model.enable_gradient_checkpointing_type == Recompute::kInherit) {
    model.enable_gradient_checkpointing_type = training.model.enable_gradient_checkpointing_type;
  }
  if (model.lora.alpha == 0) {
    model.lora.alpha = static_cast<double>(model.lora.rank);
  }
}

// The first iteration that updates the student; past the last: none.
int64_t first_student_update(const Method& m) {
  return (m.critic_warmup / m.generator_update_interval + 1) * m.generator_update_interval;
}

// What is asked for and does not happen.
void note_idle_settings(const Recipe& r, std::vector<std::string>& notes) {
  const int64_t steps = r.training.loop.max_train_steps;
  const Method& m = r.method;
  if (r.training.checkpoint.embed_frozen) {
    notes.emplace_back(
        "training.checkpoint.embed_frozen has no effect: checkpoints tell frozen networks by path "
        "and digest");
  }
  if (r.training.distributed.reduce_dtype == ReduceDtype::kBf16) {
    notes.emplace_back(
        "training.distributed.reduce_dtype bf16 has no effect: gradients are summed in the "
        "masters' type");
  }
  if (m.boundary_ratio > 0) {
    notes.emplace_back(
        "method.boundary_ratio has no effect: one network is trained, not two experts");
  }
  if (r.callbacks.ema.decay > 0 && r.callbacks.ema.start_iter > steps && steps > 0) {
    notes.push_back(str("callbacks.ema.start_iter ", r.callbacks.ema.start_iter,
                        " is beyond training.loop.max_train_steps ", steps,
                        ": there will be no average, the export is of the weights themselves"));
  }
  if (m.kind != MethodKind::kDistill) {
    return;
  }
  if (first_student_update(m) > steps && steps > 0) {
    notes.push_back(str("the student is first updated in iteration ", first_student_update(m),
                        " and training.loop.max_train_steps is ", steps,
                        ": it stays as it is. Check method.generator_update_interval and "
                        "method.critic_warmup"));
  }
  if (m.real_score_guidance_scale == 1 && m.real_score_guidance_interval != Interval{0, 1}) {
    notes.emplace_back(
        "method.real_score_guidance_interval has no effect at real_score_guidance_scale 1");
  }
}

// Fills in what depends on other values.
void resolve(Recipe& r, std::vector<std::string>& notes) {
  Training& t = r.training;
  resolve_distributed(t.distributed);
  if (t.model.enable_gradient_checkpointing_type == Recompute::kInherit) {
    t.model.enable_gradient_checkpointing_type = Recompute::kFull;
  }
  for (auto& [role, model] : r.models) {
    resolve_role(role, model, t);
  }
  Method& m = r.method;
  if (m.fake_score_learning_rate == 0) {
    m.fake_score_learning_rate = t.optimizer.learning_rate;
  }
  for (std::size_t i = 0; i < m.fake_score_betas.size(); ++i) {
    m.fake_score_betas[i] =
        m.fake_score_betas[i] < 0 ? t.optimizer.betas[i] : m.fake_score_betas[i];
  }
  if (m.fake_score_lr_scheduler == LrScheduler::kAsStudent) {
    m.fake_score_lr_scheduler = t.optimizer.lr_scheduler;
  }
  if (const auto student = r.models.find("student"); student != r.models.end()) {
    r.pipeline.flow_shift =
        r.pipeline.flow_shift == 0 ? student->second.flow_shift : r.pipeline.flow_shift;
    t.model_path = t.model_path.empty() ? student->second.init_from : t.model_path;
  }
  if (t.data.num_latent_t == 0 && t.data.num_frames > 0) {
    t.data.num_latent_t = (t.data.num_frames - 1) / 4 + 1;
  }
  Checkpoint& c = t.checkpoint;
  if (c.output_dir.empty()) {
    c.output_dir = "outputs/" + (t.tracker.run_name.empty() ? name_of(m.kind) : t.tracker.run_name);
  }
  c.export_path = c.export_path.empty() ? c.output_dir + "/export" : c.export_path;
  c.resume_from_checkpoint = c.resume_from_checkpoint.empty() ? "auto" : c.resume_from_checkpoint;
  if (c.checkpoints_total_limit == 1) {
    c.checkpoints_total_limit = 2;
    notes.emplace_back(
        "training.checkpoint.checkpoints_total_limit 1: two are kept, so that one "
        "is whole while the other is written");
  }
  note_idle_settings(r, notes);
}

Recipe build(std::map<std::string, YamlValue> values,
             const std::string& origin,
             std::vector<std::string>* notes) {
  std::vector<std::string> said = translate_train_values(values, origin);
  Recipe recipe = defaults_for(method_of(values, origin), values);
  FromValues visitor{values, origin};
  describe(visitor, recipe);
  for (const auto& [key, value] : values) {
    if (!visitor.used.contains(key)) {
      const std::optional<std::string> guess = nearest(key, visitor.keys);
      throw InvalidInput(Code::kUnknownKey,
                         str(place(origin, escape_control(key), value), " is not a setting here.",
                             guess ? " Did you mean " + *guess + "?" : ""));
    }
  }
  resolve(recipe, said);
  check_recipe(recipe);
  if (notes != nullptr) {
    *notes = std::move(said);
  }
  return recipe;
}

void add(std::map<std::string, YamlValue>& values, std::span<const Override> overrides) {
  for (const auto& [key, text] : overrides) {
    values[key] = YamlValue{{text}, 0, 0};
  }
}

}  // namespace

std::string wan_negative_prompt() {
  return preset_named("wan_t2v_1_3b").negative_prompt.value();
}

Recipe parse_recipe(std::string_view yaml,
                    const std::string& origin,
                    std::span<const Override> overrides,
                    std::vector<std::string>* notes) {
  std::map<std::string, YamlValue> values = read_yaml(yaml, origin);
  add(values, overrides);
  return build(std::move(values), origin, notes);
}

Recipe read_recipe(const Path& file,
                   std::span<const Override> overrides,
                   std::vector<std::string>* notes) {
  return parse_recipe(read_file(file, kMaxBytes), file.string(), overrides, notes);
}

MethodKind method_in(const Path& file) {
  const std::string origin = file.string();
  std::map<std::string, YamlValue> values = read_yaml(read_file(file, kMaxBytes), origin);
  translate_train_values(values, origin);
  return method_of(values, origin);
}

}  // namespace fastwan::config
