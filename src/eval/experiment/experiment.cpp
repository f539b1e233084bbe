#include "eval/experiment/experiment.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "config/thresholds.h"
#include "eval/experiment/experiment_report.h"
#include "eval/experiment/judge_row.h"
#include "eval/experiment/kept_files.h"
#include "models/layout/model_folder.h"
#include "models/shape_features.h"

namespace fastwan::eval {
namespace {

// Configs too: a VAE's hold the mean and deviation of its latents.
std::string digest_of(const Path& component) {
  return sha256_files(component, {".json", ".safetensors"});
}

// As the VAE and the transformers of the rows want it.
void check_sizes(const config::Evaluation& e, const layout::ModelFolder& model) {
  const bool samples = std::any_of(e.rows.begin(), e.rows.end(), [](const auto& row) {
    return row.clips == config::ClipsFrom::kSampled;
  });
  const int64_t side = samples ? model.size_multiple() : model.vae_config.scale_factor_spatial;
  const int64_t time = model.vae_config.scale_factor_temporal;
  for (const auto& [name, pixels] :
       {std::pair("num_height", e.num_height), std::pair("num_width", e.num_width)}) {
    if (pixels % side != 0) {
      throw InvalidInput(Code::kBadValue,
                         str(name, " of the evaluation must be a multiple of ", side, ", got ",
                             pixels, ". Nearest: ", std::max(side, pixels / side * side), ", ",
                             (pixels / side + 1) * side));
    }
  }
  if (e.num_frames % time != 1 % time) {
    throw InvalidInput(Code::kBadValue, str("num_frames of the evaluation must be ", time,
                                            "k+1, got ", e.num_frames));
  }
  data::shapes::check_format(format_of(e));
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
        output_(evaluation.output_dir),
        rows_(output_ / "rows", output_ / "sheets"),
        probes_(output_),
        gates_(config::read_thresholds(evaluation.thresholds)),
        elsewhere_(figures_elsewhere(evaluation)) {
    for (const std::string& name : options.rows) {
      if (std::none_of(evaluation.rows.begin(), evaluation.rows.end(),
                       [&name](const auto& row) { return row.name == name; })) {
        throw InvalidInput(Code::kBadValue, str("--rows: there is no row ", escape_control(name)));
      }
    }
    // What every row would stumble over, and what would be missed after hours.
    if (std::filesystem::exists(evaluation.model)) {
      check_sizes(evaluation, layout::open_model_folder(evaluation.model, {}));
    }
    if (std::filesystem::exists(evaluation.features)) {
      models::load_shape_features(evaluation.features);
    }
    make_folders();
  }

  Json run() {
    Json document = {{"complete", true},
                     {"device", device()},
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
    const auto figures = figures_of(document, elsewhere_);
    document["figures"] = figures;
    document["gates"] = verdicts_of(gates_, figures, samples_of(document));
    write_experiment_report(evaluation_, document);
    return document;
  }

 private:
  static constexpr const char* kLater = "not made yet; the same command goes on";

  void make_folders() const {
    std::error_code error;
    std::filesystem::create_directories(output_, error);
    if (error) {
      throw_io_error(error.value(), output_, "create folder");
    }
    for (const Path& folder : {output_, output_ / "rows", output_ / "sheets"}) {
      require_writable_folder(folder);
    }
  }

  static Json not_run(const std::string& reason) {
    return {{"status", "not_run"}, {"reason", reason}};
  }

  static Json figures_elsewhere(const config::Evaluation& evaluation) {
    if (evaluation.figures.empty() || !std::filesystem::exists(evaluation.figures)) {
      return Json::object();
    }
    Json figures = read_json_file(evaluation.figures);
    if (!figures.is_object()) {
      throw InvalidInput(Code::kBadJson,
                         evaluation.figures + ": wanted an object of figures and their values");
    }
    return figures;
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

  const std::string& shared_digest() {
    if (shared_digest_.empty()) {
      const config::Evaluation& e = evaluation_;
      const layout::ModelFolder model = layout::open_model_folder(e.model, {});
      shared_digest_ =
          sha256_hex(str(digest_of(model.vae), digest_of(model.text_encoder),
                         sha256_files(model.tokenizer, {".json", ".model"}), digest_of(e.features),
                         ' ', e.seed, ' ', e.num_frames, ' ', e.num_height, ' ', e.num_width, ' ',
                         e.samples, ' ', e.prompts, ' ', e.samples_per_prompt));
    }
    return shared_digest_;
  }

  std::string fingerprint_of(const config::EvaluationRow& row) {
    std::string steps;
    for (const int64_t step : row.dmd_denoising_steps) {
      steps += str(step, ',');
    }
    steps += row.warp_denoising_step ? "warped" : "";
    const std::string transformer =
        row.model.empty() ? "" : digest_of(layout::open_model_folder(row.model, {}).transformer);
    return sha256_hex(str(shared_digest(), ' ', static_cast<int>(row.clips), ' ', transformer, ' ',
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
    const bool is_asked =
        options_.rows.empty() ||
        std::find(options_.rows.begin(), options_.rows.end(), row.name) != options_.rows.end();
    try {
      const std::string fingerprint = fingerprint_of(row);
      if (const auto kept = rows_.find(row.name, fingerprint)) {
        return *kept;
      }
      return is_asked && !is_late() ? make(row, fingerprint) : not_run(kLater);
    } catch (const InvalidInput& error) {
      return is_asked ? failed(row, error) : not_run(error.what());
    } catch (const IoError& error) {
      if (error.code() != Code::kNotFound) {
        throw;
      }
      return is_asked ? failed(row, error) : not_run(error.what());
    }
  }

  Json failed(const config::EvaluationRow& row, const Failure& error) const {
    on_note_(str(row.name, " failed: ", error.what()));
    return {
        {"status", "failed"}, {"reason", error.what()}, {"exit", info(error.code()).exit_status}};
  }

  Json make(const config::EvaluationRow& row, const std::string& fingerprint) {
    if (!reference_) {
      prompts_ = draw_prompt_sets(evaluation_);
      reference_ = make_reference(evaluation_, parts(), watch_);
    }
    const std::unique_ptr<ClipMaker> maker = make_clip_maker(evaluation_, row, parts());
    const JudgedRow judged =
        judge_row(evaluation_, row.name, *maker, *prompts_, *reference_, watch_);
    Json kept = {{"status", "done"}, {"fingerprint", fingerprint}, {"device", device()}};
    kept.update(judged.numbers);
    rows_.keep(row.name, kept, &judged.sheet);
    return kept;
  }

  std::string device() const {
    return options_.device.str() + (options_.processor.empty() ? "" : ", " + options_.processor);
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
    document["probe_samples"] = {{"text", captions_judged(evaluation_)},
                                 {"features", evaluation_.samples}};
    if (has_parts && std::filesystem::exists(evaluation_.text_heads)) {
      document["text"] = judge_text_heads(evaluation_, parts());
    }
    if (!has_parts) {
      return;
    }
    if (reference_) {
      document["features"] =
          judge_feature_net(evaluation_, *reference_->net, parts(), prompts_->seen, watch_);
      probes_.keep("feature_net",
                   {{"fingerprint", shared_digest()}, {"shares", document["features"]}});
    } else if (std::filesystem::exists(evaluation_.features)) {
      if (const auto last = probes_.find("feature_net", shared_digest())) {
        document["features"] = last->at("shares");
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
  KeptFiles rows_, probes_;
  std::vector<config::Gate> gates_;
  Json elsewhere_;
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
