#include "config/evaluation.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"
#include "config/yaml_reader.h"

namespace fastwan::config {
namespace {

constexpr int64_t kMaxBytes = 1 << 20;
constexpr std::array<EnumName<ClipsFrom>, 3> kClipsFrom = {
    {{"rendered", ClipsFrom::kRendered},
     {"reconstructed", ClipsFrom::kReconstructed},
     {"sampled", ClipsFrom::kSampled}}};

// One value of the file, offered to each field it may belong to.
class Value {
 public:
  Value(std::string name, const YamlValue& value, const std::string& where)
      : name_(std::move(name)), value_(value), where_(where) {}

  template <class T>
  void offer(const char* name, T& field, const Range& range = {}) {
    if (name_ == name) {
      assign(field, value_.texts, range, where_);
      is_taken_ = true;
    }
  }
  void offer(const char* name, ClipsFrom& field) {
    if (name_ != name) {
      return;
    }
    const std::string text = value_.texts.size() == 1 ? value_.texts[0] : "";
    const auto* entry = std::find_if(kClipsFrom.begin(), kClipsFrom.end(),
                                     [&text](const auto& known) { return text == known.name; });
    if (entry == kClipsFrom.end()) {
      throw_bad_value(where_, "rendered, reconstructed or sampled", text);
    }
    field = entry->value;
    is_taken_ = true;
  }
  bool is_taken() const { return is_taken_; }

 private:
  std::string name_;
  const YamlValue& value_;
  const std::string& where_;
  bool is_taken_ = false;
};

constexpr Range kCount{1, 1e9};
// The fewest: five neighbours and something beside them. The most: sets keep so many places of the
// noise apart (judge_row).
constexpr Range kSamples{8, 1e6};

void read_top(Evaluation& e, Value& value) {
  value.offer("model", e.model);
  value.offer("features", e.features);
  value.offer("text_heads", e.text_heads);
  value.offer("thresholds", e.thresholds);
  value.offer("figures", e.figures);
  value.offer("output_dir", e.output_dir);
  value.offer("seed", e.seed, {0, 9e15});
  value.offer("num_frames", e.num_frames, kCount);
  value.offer("num_height", e.num_height, kCount);
  value.offer("num_width", e.num_width, kCount);
  value.offer("samples", e.samples, kSamples);
  value.offer("prompts", e.prompts, kCount);
  value.offer("samples_per_prompt", e.samples_per_prompt, {2, 1e9});
  value.offer("batch", e.batch, kCount);
}

void read_row(EvaluationRow& row, Value& value) {
  value.offer("clips", row.clips);
  value.offer("title", row.title);
  value.offer("model", row.model);
  value.offer("sampler", row.sampler);
  value.offer("steps", row.steps, {1, 1000});
  value.offer("dmd_denoising_steps", row.dmd_denoising_steps, {1, 1000});
  value.offer("warp_denoising_step", row.warp_denoising_step);
  value.offer("flow_shift", row.flow_shift, {0.01, 100});
  value.offer("guidance_scale", row.guidance_scale, {0, 100});
  value.offer("attention_backend", row.attention_backend);
  value.offer("vsa_sparsity", row.vsa_sparsity, {0, 0.999});
}

bool is_word(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

void check(const Evaluation& e, const std::string& origin) {
  const auto require = [&origin](bool holds, const std::string& what) {
    if (!holds) {
      throw InvalidInput(Code::kBadConfig, str(origin, ": ", what));
    }
  };
  require(!e.model.empty(), "model is missing: the folder of VAE, text encoder and tokenizer");
  require(!e.features.empty(), "features is missing: the file of the feature net");
  require(!e.thresholds.empty(), "thresholds is missing: the file of the gates");
  require(!e.output_dir.empty(), "output_dir is missing");
  require(!e.rows.empty(), "there are no rows");
  for (const EvaluationRow& row : e.rows) {
    const std::string name = "rows." + escape_control(row.name);
    require(is_word(row.name),
            name + ": a row's name, of letters, digits, _ and -, names its files");
    require(!row.title.empty(), name + " has no title");
    require((row.clips == ClipsFrom::kSampled) == !row.model.empty(),
            name + ": sampled rows, and they alone, have a model");
    require(row.sampler != Sampler::kAuto, name + ".sampler must be dmd, unipc or euler");
    require(row.attention_backend != AttentionBackend::kAuto,
            name + ".attention_backend must be dense or vsa");
  }
}

}  // namespace

Evaluation read_evaluation(const Path& file) {
  const std::string origin = file.string();
  Evaluation evaluation;
  struct Placed {
    int line;
    EvaluationRow row;
  };
  std::map<std::string, Placed> rows;
  for (const auto& [key, value] : read_yaml(read_file(file, kMaxBytes), origin)) {
    const std::string at = str(origin, ":", value.line, ":", value.column, ": ", key);
    const std::vector<std::string> path = split(key, '.');
    Value offered(path.back(), value, at);
    if (path.size() == 1) {
      read_top(evaluation, offered);
    } else if (path.size() == 2 && path[0] == "runs") {
      offered.offer(path[1].c_str(), evaluation.runs[path[1]]);
    } else if (path.size() == 3 && path[0] == "rows") {
      Placed& placed = rows.try_emplace(path[1], Placed{value.line, {}}).first->second;
      placed.line = std::min(placed.line, value.line);
      placed.row.name = path[1];
      read_row(placed.row, offered);
    }
    if (!offered.is_taken()) {
      throw InvalidInput(Code::kUnknownKey, at + " is not part of an evaluation");
    }
  }
  std::vector<Placed> ordered;
  for (auto& [name, placed] : rows) {
    ordered.push_back(std::move(placed));
  }
  std::sort(ordered.begin(), ordered.end(),
            [](const Placed& a, const Placed& b) { return a.line < b.line; });
  for (Placed& placed : ordered) {
    evaluation.rows.push_back(std::move(placed.row));
  }
  check(evaluation, origin);
  return evaluation;
}

void set_samples(Evaluation& evaluation, int64_t samples) {
  const auto fewest = static_cast<int64_t>(kSamples.min), most = static_cast<int64_t>(kSamples.max);
  if (samples < fewest || samples > most) {
    throw InvalidInput(Code::kBadValue,
                       str("--samples must be from ", fewest, " to ", most, ", got ", samples));
  }
  evaluation.samples = samples;
  evaluation.prompts = std::min(evaluation.prompts, std::max<int64_t>(1, samples / 8));
  evaluation.samples_per_prompt =
      std::clamp<int64_t>(samples / evaluation.prompts, 2, evaluation.samples_per_prompt);
}

}  // namespace fastwan::config
