#include "config/recipe.h"

#include <algorithm>

#include "base/digest.h"
#include "base/text.h"
#include "config/assign.h"

namespace fastwan::config {
namespace {

// A double-quoted YAML scalar.
std::string quoted(const std::string& text) {
  constexpr const char* kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string listed(const std::vector<std::string>& texts) {
  std::string out = "[";
  for (const std::string& text : texts) {
    out += (out.size() > 1 ? ", " : "") + text;
  }
  return out + "]";
}

std::string yaml_value(const std::string& value) {
  return quoted(value);
}
std::string yaml_value(const std::vector<std::string>& value) {
  std::vector<std::string> texts;
  std::transform(value.begin(), value.end(), std::back_inserter(texts), quoted);
  return listed(texts);
}
std::string yaml_value(const std::vector<int64_t>& value) {
  return listed(to_texts(value));
}
std::string yaml_value(const Betas& value) {
  return listed(to_texts(value));
}
template <class T>
std::string yaml_value(const T& value) {
  return to_texts(value)[0];
}

struct Leaf {
  std::string key;
  std::string value;  // as YAML
};

struct Leaves {
  std::vector<Leaf> all = {};

  template <class T>
  void field(const RecipeField& info, T& value) {
    all.push_back({info.key, yaml_value(value)});
  }
};

std::vector<Leaf> leaves_of(const Recipe& recipe) {
  Recipe copy = recipe;  // describe() hands out writable members
  Leaves leaves;
  describe(leaves, copy);
  return leaves.all;
}

template <class E, std::size_t N>
using NameTable = std::array<EnumName<E>, N>;

}  // namespace

bool trains_transformer(MethodKind method) {
  return method == MethodKind::kFinetune || is_few_step(method);
}

bool reads_trajectories(const Method& method) {
  return method.kind == MethodKind::kOde ||
         (method.kind == MethodKind::kDistill && method.regression_weight > 0);
}

bool is_few_step(MethodKind method) {
  return method == MethodKind::kDistill || method == MethodKind::kOde;
}

std::span<const EnumName<MethodKind>> names(MethodKind) {
  static constexpr NameTable<MethodKind, 6> kNames = {{{"finetune", MethodKind::kFinetune},
                                                       {"distill", MethodKind::kDistill},
                                                       {"ode", MethodKind::kOde},
                                                       {"vae", MethodKind::kVae},
                                                       {"text", MethodKind::kText},
                                                       {"features", MethodKind::kFeatures}}};
  return kNames;
}

std::span<const EnumName<NetworkKind>> names(NetworkKind) {
  static constexpr NameTable<NetworkKind, 4> kNames = {{{"wan", NetworkKind::kWan},
                                                        {"wan_vae", NetworkKind::kWanVae},
                                                        {"umt5", NetworkKind::kUmt5},
                                                        {"feature_net", NetworkKind::kFeatureNet}}};
  return kNames;
}

std::span<const EnumName<WeightsInit>> names(WeightsInit) {
  static constexpr NameTable<WeightsInit, 2> kNames = {
      {{"pretrained", WeightsInit::kPretrained}, {"random", WeightsInit::kRandom}}};
  return kNames;
}

std::span<const EnumName<Recompute>> names(Recompute) {
  // block_skip is FastVideo's name; its n_layer is training.model.recompute_every_n.
  static constexpr NameTable<Recompute, 6> kNames = {{{"inherit", Recompute::kInherit},
                                                      {"none", Recompute::kNone},
                                                      {"full", Recompute::kFull},
                                                      {"every_n", Recompute::kEveryN},
                                                      {"ops", Recompute::kOps},
                                                      {"block_skip", Recompute::kEveryN}}};
  return kNames;
}

std::span<const EnumName<RolloutMode>> names(RolloutMode) {
  static constexpr NameTable<RolloutMode, 2> kNames = {
      {{"data_latent", RolloutMode::kDataLatent}, {"simulate", RolloutMode::kSimulate}}};
  return kNames;
}

std::span<const EnumName<KScope>> names(KScope) {
  static constexpr NameTable<KScope, 3> kNames = {
      {{"step", KScope::kStep}, {"group", KScope::kGroup}, {"sample", KScope::kSample}}};
  return kNames;
}

std::span<const EnumName<NanPolicy>> names(NanPolicy) {
  static constexpr NameTable<NanPolicy, 2> kNames = {
      {{"stop", NanPolicy::kStop}, {"zero", NanPolicy::kZero}}};
  return kNames;
}

std::span<const EnumName<UnconditionalText>> names(UnconditionalText) {
  static constexpr NameTable<UnconditionalText, 2> kNames = {
      {{"negative_prompt", UnconditionalText::kNegativePrompt},
       {"zero", UnconditionalText::kZero}}};
  return kNames;
}

std::span<const EnumName<OptimizerKind>> names(OptimizerKind) {
  static constexpr NameTable<OptimizerKind, 2> kNames = {
      {{"adamw", OptimizerKind::kAdamW}, {"muon", OptimizerKind::kMuon}}};
  return kNames;
}

std::span<const EnumName<LrScheduler>> names(LrScheduler) {
  static constexpr NameTable<LrScheduler, 7> kNames = {
      {{"student", LrScheduler::kAsStudent},
       {"constant", LrScheduler::kConstant},
       {"constant_with_warmup", LrScheduler::kConstantWithWarmup},
       {"linear", LrScheduler::kLinear},
       {"cosine", LrScheduler::kCosine},
       {"polynomial", LrScheduler::kPolynomial},
       {"cosine_with_min_lr", LrScheduler::kCosineWithMinLr}}};
  return kNames;
}

std::span<const EnumName<TimestepDensity>> names(TimestepDensity) {
  static constexpr NameTable<TimestepDensity, 3> kNames = {
      {{"uniform", TimestepDensity::kUniform},
       {"logit_normal", TimestepDensity::kLogitNormal},
       {"mode", TimestepDensity::kMode}}};
  return kNames;
}

std::span<const EnumName<ComputeDtype>> names(ComputeDtype) {
  static constexpr NameTable<ComputeDtype, 3> kNames = {{{"fp64", ComputeDtype::kFp64},
                                                         {"fp32", ComputeDtype::kFp32},
                                                         {"bf16", ComputeDtype::kBf16}}};
  return kNames;
}

std::span<const EnumName<MomentDtype>> names(MomentDtype) {
  static constexpr NameTable<MomentDtype, 3> kNames = {{{"fp32", MomentDtype::kFp32},
                                                        {"bf16_sr", MomentDtype::kBf16Sr},
                                                        {"none", MomentDtype::kNone}}};
  return kNames;
}

std::span<const EnumName<ReduceDtype>> names(ReduceDtype) {
  static constexpr NameTable<ReduceDtype, 2> kNames = {
      {{"fp32", ReduceDtype::kFp32}, {"bf16", ReduceDtype::kBf16}}};
  return kNames;
}

std::span<const EnumName<AccumSync>> names(AccumSync) {
  static constexpr NameTable<AccumSync, 2> kNames = {
      {{"each", AccumSync::kEach}, {"last", AccumSync::kLast}}};
  return kNames;
}

std::span<const EnumName<DataSource>> names(DataSource) {
  static constexpr NameTable<DataSource, 2> kNames = {
      {{"parquet", DataSource::kParquet}, {"shapes", DataSource::kShapes}}};
  return kNames;
}

std::span<const EnumName<RowKind>> names(RowKind) {
  static constexpr NameTable<RowKind, 2> kNames = {
      {{"t2v", RowKind::kT2v}, {"text_only", RowKind::kTextOnly}}};
  return kNames;
}

std::span<const EnumName<ShapesRange>> names(ShapesRange) {
  static constexpr NameTable<ShapesRange, 3> kNames = {{{"training", ShapesRange::kTraining},
                                                        {"vae", ShapesRange::kVae},
                                                        {"probe", ShapesRange::kProbe}}};
  return kNames;
}

std::string to_yaml(const Recipe& recipe) {
  std::string out;
  std::vector<std::string> open;  // the maps that the last line stands in
  for (const Leaf& leaf : leaves_of(recipe)) {
    const std::vector<std::string> path = split(leaf.key, '.');
    std::size_t shared = 0;
    while (shared < open.size() && shared + 1 < path.size() && open[shared] == path[shared]) {
      ++shared;
    }
    open.resize(shared);
    for (; open.size() + 1 < path.size(); open.push_back(path[open.size()])) {
      out += std::string(2 * open.size(), ' ') + path[open.size()] + ":\n";
    }
    out += std::string(2 * open.size(), ' ') + path.back() + ": " + leaf.value + "\n";
  }
  return out;
}

std::string recipe_hash(const Recipe& recipe) {
  return sha256_hex(to_yaml(recipe));
}

std::vector<RecipeChange> recipe_changes(const Recipe& before, const Recipe& after) {
  std::map<std::string, RecipeChange> by_key;
  for (const Leaf& leaf : leaves_of(before)) {
    by_key[leaf.key] = {leaf.key, leaf.value, ""};
  }
  for (const Leaf& leaf : leaves_of(after)) {
    RecipeChange& change = by_key[leaf.key];
    change.key = leaf.key;
    change.after = leaf.value;
  }
  // The critic's settings follow the student's where they are not given; only distillation has one.
  const bool has_critic =
      before.method.kind == MethodKind::kDistill || after.method.kind == MethodKind::kDistill;
  std::vector<RecipeChange> changes;
  for (auto& [key, change] : by_key) {
    const bool is_read = has_critic || !key.starts_with("method.fake_score_");
    if (is_read && change.before != change.after) {
      changes.push_back(std::move(change));
    }
  }
  return changes;
}

bool affects_training(std::string_view key) {
  return !starts_with_any(key, {"training.checkpoint.", "training.tracker.",
                                "callbacks.validation.", "callbacks.ema.use_for_"}) &&
         key != "training.loop.max_seconds" && key != "training.distributed.dist_timeout" &&
         key != "training.data.dataloader_num_workers";
}

int64_t data_ranks(const Recipe& recipe) {
  return recipe.training.distributed.num_gpus / recipe.training.distributed.sp_size;
}

int64_t global_batch(const Recipe& recipe) {
  return data_ranks(recipe) * recipe.training.data.train_batch_size *
         recipe.training.loop.gradient_accumulation_steps;
}

}  // namespace fastwan::config
