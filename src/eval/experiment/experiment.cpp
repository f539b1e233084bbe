#include "eval/experiment/experiment.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "eval/experiment/experiment_report.h"
#include "eval/experiment/judge_row.h"
#include "io/image.h"

namespace fastwan::eval {
namespace {

std::string digest_of(const Path& where) {
  return sha256_files(where, {".safetensors"});
}

class Experiment {
 public:
  Experiment(const config::Evaluation& evaluation,
             const ExperimentOptions& options,
             const Watch& watch,
             const std::function<void(const std::string&)>& on_note)
      : evaluation_(evaluation),
        options_(options),
        watch_(watch),
        on_note_(on_note),
        output_(evaluation.output_dir) {
    for (const std::string& name : options.rows) {
      if (std::none_of(evaluation.rows.begin(), evaluation.rows.end(),
                       [&name](const auto& row) { return row.name == name; })) {
        throw InvalidInput(Code::kBadValue, str("--rows: there is no row ", escape_control(name)));
      }
    }
  }

  Json run() {
    for (const char* folder : {"rows", "sheets"}) {
      std::filesystem::create_directories(output_ / folder);
    }
    Json document = {{"complete", true},
                     {"device", options_.device.str()},
                     {"samples", evaluation_.samples},
                     {"seed", evaluation_.seed},
                     {"rows", Json::array()}};
    for (const config::EvaluationRow& row : evaluation_.rows) {
      Json entry = {{"name", row.name}, {"title", row.title}};
      entry.update(made_or_kept(row));
      if (entry["status"] == "not_run" && entry["reason"] == kLater) {
        document["complete"] = false;
      }
      document["rows"].push_back(std::move(entry));
    }
    judge_probes(document);
    add_agreement(document["rows"]);
    Json elsewhere = Json::object();
    if (!evaluation_.figures.empty() && std::filesystem::exists(evaluation_.figures)) {
      elsewhere = read_json_file(evaluation_.figures);
    }
    const auto figures = figures_of(document, elsewhere);
    document["figures"] = figures;
    document["gates"] = verdicts_of(evaluation_.thresholds, figures);
    write_experiment_report(evaluation_, document);
    return document;
  }

 private:
  static constexpr const char* kLater = "not made yet; the same command goes on";

  static Json not_run(const std::string& reason) {
    return {{"status", "not_run"}, {"reason", reason}};
  }

  // What the row needs and is not there.
  std::optional<std::string> missing(const config::EvaluationRow& row) const {
    for (const std::string& needed : {evaluation_.model, evaluation_.features, row.model}) {
      if (!needed.empty() && !std::filesystem::exists(needed)) {
        return needed + " does not exist";
      }
    }
    return std::nullopt;
  }

  std::string fingerprint_of(const config::EvaluationRow& row) {
    if (shared_digest_.empty()) {
      const config::Evaluation& e = evaluation_;
      shared_digest_ = sha256_hex(
          str(digest_of(Path(e.model) / "vae"), digest_of(Path(e.model) / "text_encoder"),
              digest_of(e.features), ' ', e.seed, ' ', e.num_frames, ' ', e.num_height, ' ',
              e.num_width, ' ', e.samples, ' ', e.prompts, ' ', e.samples_per_prompt));
    }
    std::string steps;
    for (const int64_t step : row.dmd_denoising_steps) {
      steps += str(step, ',');
    }
    steps += row.warp_denoising_step ? "warped" : "";
    return sha256_hex(str(shared_digest_, ' ', static_cast<int>(row.clips), ' ',
                          row.model.empty() ? "" : digest_of(Path(row.model) / "transformer"), ' ',
                          config::name_of(row.sampler), ' ', row.steps, ' ', steps, ' ',
                          row.flow_shift, ' ', row.guidance_scale, ' ',
                          config::name_of(row.attention_backend), ' ', row.vsa_sparsity));
  }

  bool is_late() const {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    return options_.max_seconds > 0 && passed.count() > options_.max_seconds;
  }

  Json made_or_kept(const config::EvaluationRow& row) {
    if (const auto reason = missing(row)) {
      return not_run(*reason);
    }
    const Path file = output_ / "rows" / (row.name + ".json");
    const std::string fingerprint = fingerprint_of(row);
    if (std::filesystem::exists(file)) {
      Json kept = read_json_file(file.string());
      if (kept.value("fingerprint", "") == fingerprint) {
        return kept;
      }
    }
    const bool is_asked =
        options_.rows.empty() ||
        std::find(options_.rows.begin(), options_.rows.end(), row.name) != options_.rows.end();
    if (!is_asked || is_late()) {
      return not_run(kLater);
    }
    try {
      return make(row, fingerprint, file);
    } catch (const InvalidInput& error) {
      on_note_(str(row.name, " failed: ", error.what()));
      return {{"status", "failed"}, {"reason", error.what()}};
    }
  }

  Json make(const config::EvaluationRow& row, const std::string& fingerprint, const Path& file) {
    if (!reference_) {
      prompts_ = draw_prompt_sets(evaluation_);
      reference_ = make_reference(evaluation_, parts(), watch_);
    }
    const std::unique_ptr<ClipMaker> maker = make_clip_maker(evaluation_, row, parts());
    const JudgedRow judged =
        judge_row(evaluation_, row.name, *maker, *prompts_, *reference_, watch_);
    io::write_png(output_ / "sheets" / (row.name + ".png"), judged.sheet);
    Json kept = {{"status", "done"}, {"fingerprint", fingerprint}};
    kept.update(judged.numbers);
    write_durably(file, dump_json(kept) + "\n");
    return kept;
  }

  const SharedParts& parts() {
    if (!parts_) {
      parts_ = load_shared_parts(evaluation_, options_.device);
    }
    return *parts_;
  }

  // The networks that judge, or that prompts go through, judged themselves.
  void judge_probes(Json& document) {
    const bool has_parts = std::filesystem::exists(evaluation_.model);
    if (has_parts && std::filesystem::exists(evaluation_.text_heads)) {
      document["text"] = judge_text_heads(evaluation_, parts());
    }
    const Path kept = output_ / "feature_net.json";
    if (has_parts && reference_) {
      document["features"] =
          judge_feature_net(evaluation_, *reference_->net, parts(), prompts_->seen, watch_);
      write_durably(
          kept,
          Json{{"fingerprint", shared_digest_}, {"shares", document["features"]}}.dump() + "\n");
    } else if (std::filesystem::exists(kept)) {
      const Json last = read_json_file(kept.string());
      if (last.value("fingerprint", "") == shared_digest_) {
        document["features"] = last["shares"];
      }
    }
  }

  // Share of attributes of seen prompts that a row shows as the teacher's clip does; what the lists
  // were kept for, after which they leave.
  static void add_agreement(Json& rows) {
    const auto teacher = std::find_if(rows.begin(), rows.end(), [](const Json& row) {
      return row["name"] == "teacher" && row["status"] == "done";
    });
    const Json detected = teacher == rows.end() ? Json() : (*teacher)["detected"];
    for (Json& row : rows) {
      if (row["status"] != "done") {
        continue;
      }
      if (detected.is_array() && detected.size() == row["detected"].size()) {
        row["agreement"] = agreement(row["detected"], detected);
      }
      row.erase("detected");
    }
  }

  static double agreement(const Json& a, const Json& b) {
    double same = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const int64_t x = a[i], y = b[i];
      if (x < 0 || y < 0) {
        continue;
      }
      const auto p = data::shapes::labels_of(data::shapes::attributes_of(x));
      const auto q = data::shapes::labels_of(data::shapes::attributes_of(y));
      for (std::size_t k = 0; k < p.size(); ++k) {
        same += p[k] == q[k] ? 1 : 0;
      }
    }
    return same / static_cast<double>(a.size() * data::shapes::kNumAttributes);
  }

  const config::Evaluation& evaluation_;
  const ExperimentOptions& options_;
  const Watch& watch_;
  const std::function<void(const std::string&)>& on_note_;
  Path output_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string shared_digest_;
  std::optional<SharedParts> parts_;
  std::optional<PromptSets> prompts_;
  std::optional<Reference> reference_;
};

}  // namespace

Json run_experiment(const config::Evaluation& evaluation,
                    const ExperimentOptions& options,
                    const Watch& watch,
                    const std::function<void(const std::string&)>& on_note) {
  return Experiment(evaluation, options, watch, on_note).run();
}

}  // namespace fastwan::eval
