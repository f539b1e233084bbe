#include "eval/experiment/experiment_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include "base/text.h"
#include "config/thresholds.h"
#include "data/shapes.h"
#include "eval/report.h"

namespace fastwan::eval {
namespace {

constexpr std::size_t kCurvePoints = 300;

double worst(const Json& shares) {
  double lowest = std::numeric_limits<double>::infinity();
  for (const auto& [attribute, share] : shares.items()) {
    lowest = std::min(lowest, share["value"].get<double>());
  }
  return lowest;
}

void add_set(const Json& set, const std::string& prefix, std::map<std::string, double>& figures) {
  figures[prefix + "all_right"] = set["all_correct"]["value"];
  for (const auto& [attribute, share] : set["attributes"].items()) {
    figures[prefix + attribute] = share["value"];
  }
}

void add_row(const Json& row, std::map<std::string, double>& figures) {
  const std::string name = row["name"].get<std::string>() + ".";
  add_set(row["seen"], name + "seen.", figures);
  add_set(row["held_out"], name + "held_out.", figures);
  for (const char* measure : {"flicker", "saturation", "fragment_share"}) {
    figures[name + measure] = row["seen"]["steadiness"][measure];
  }
  if (const Json& steady = row["seen"]["steadiness"]; steady.contains("first_frame_hue_error")) {
    figures[name + "first_frame_hue_error"] = steady["first_frame_hue_error"];
  }
  for (const auto& [measure, value] : row["distances"].items()) {
    figures[name + measure] = value.is_object() ? value["value"] : value;
  }
  figures[name + "position_spread"] = row["repeated"]["position_spread"];
  if (row.contains("psnr")) {
    figures[name + "psnr"] = row["psnr"];
  }
}

const char* name_of(config::Verdict verdict) {
  switch (verdict) {
    case config::Verdict::kPass:
      return "pass";
    case config::Verdict::kFail:
      return "fail";
    case config::Verdict::kNotRead:
      return "not read";
    case config::Verdict::kNotRun:
      return "not run";
  }
  return "";
}

const char* name_of(config::Comparison comparison) {
  switch (comparison) {
    case config::Comparison::kAtLeast:
      return "at least";
    case config::Comparison::kAtMost:
      return "at most";
    case config::Comparison::kAbove:
      return "above";
  }
  return "";
}

std::string cell(const Json& number) {
  return number.is_number() ? format_metric(number.get<double>()) : "not run";
}

// Empty where a row was made before there was such a number.
std::string cell(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? format_metric(found->get<double>()) : "";
}

std::string with_interval(const Json& share) {
  return str(format_metric(share["value"]), " [", format_metric(share["low"]), ", ",
             format_metric(share["high"]), "]");
}

bool is_done(const Json& row) {
  return row["status"] == "done";
}

// "at least 0.99", "at most 0.45, 0.5 x teacher.frechet": gates whose bounds were not run, or that
// compare one figure with many, are told apart.
std::string wanted_cell(const Json& condition) {
  const std::string of = condition.value("bound_of", "");
  return str(condition["comparison"].get<std::string>(), " ", cell(condition["bound"]),
             of.empty() ? "" : ", ", of);
}

// "9", "9, wanted 2048"; empty where clips are not what was counted.
std::string samples_cell(const Json& gate) {
  if (!gate["samples"].is_number()) {
    return "";
  }
  const int64_t got = gate["samples"], wanted = gate["wanted_samples"];
  return got < wanted ? str(got, ", wanted ", wanted) : std::to_string(got);
}

void show_gates(Report& report, const Json& gates) {
  report.heading("Gates");
  report.paragraph(
      "Written down before the first run and never edited. The point estimate decides; intervals "
      "stand in the tables below. A gate is not read with fewer clips than were written down.");
  std::vector<std::vector<std::string>> lines;
  for (const Json& gate : gates) {
    bool is_first = true;
    for (const Json& condition : gate["conditions"]) {
      lines.push_back({is_first ? gate["id"].get<std::string>() : "",
                       is_first ? gate["quantity"].get<std::string>() : "",
                       condition["figure"].get<std::string>(), cell(condition["value"]),
                       wanted_cell(condition), is_first ? samples_cell(gate) : "",
                       is_first ? gate["verdict"].get<std::string>() : ""});
      is_first = false;
    }
  }
  report.table({"gate", "quantity", "figure", "measured", "wanted", "clips", "verdict"}, lines);
}

void show_rows(Report& report, const Json& rows) {
  report.heading("Attributes");
  std::vector<std::vector<std::string>> accuracy, quality;
  std::vector<Bar> bars;
  for (const Json& row : rows) {
    const std::string title = row["title"];
    if (!is_done(row)) {
      const std::string status = row["status"] == "failed" ? "failed" : "not run";
      accuracy.push_back({title, status});
      quality.push_back({title, status});
      continue;
    }
    const Json& seen = row["seen"];
    std::vector<std::string> line = {title, std::to_string(row["evaluations"].get<int64_t>()),
                                     with_interval(seen["all_correct"]),
                                     with_interval(row["held_out"]["all_correct"])};
    for (const auto& [attribute, share] : seen["attributes"].items()) {
      line.push_back(format_metric(share["value"]));
    }
    line.push_back(cell(row, "agreement"));
    line.push_back(row.value("device", ""));
    accuracy.push_back(line);
    bars.push_back(
        {title,
         {seen["all_correct"]["value"], seen["all_correct"]["low"], seen["all_correct"]["high"]}});

    const Json& distances = row["distances"];
    const Json& steady = seen["steadiness"];
    const Json& repeated = row["repeated"];
    quality.push_back(
        {title, with_interval(distances["frechet"]), with_interval(distances["kid"]),
         cell(distances["precision"]), cell(distances["recall"]), cell(distances["coverage"]),
         cell(distances, "latents_wasserstein"), cell(repeated["position_spread"]),
         cell(repeated["starts"]["p"]), cell(repeated["rotations"]["p"]),
         repeated.contains("angles") ? cell(repeated["angles"], "p") : "", cell(steady["flicker"]),
         cell(steady["saturation"]), cell(steady["centroid_residual_px"]),
         cell(steady["fragment_share"]), cell(steady, "area_variation"),
         cell(steady, "colour_variation"), cell(steady, "first_frame_hue_error")});
  }
  std::vector<std::string> head = {"row", "forwards", "all right, seen", "all right, held out"};
  for (const char* attribute : data::shapes::kAttributeNames) {
    head.emplace_back(attribute);
  }
  head.emplace_back("agrees with the teacher");
  head.emplace_back("made on");
  report.table(head, accuracy);
  report.bars("all attributes right on seen combinations, with Wilson's 95 % interval", bars, 1);
  report.heading("Distribution and steadiness");
  report.paragraph(
      "Distances from real clips of other indices; the first row is what two sets of real clips "
      "give. Frechet distance and KID have the scale of the net's 64 features, which are not "
      "standardised: they compare rows of one page, not pages of two nets. Frechet's interval: "
      "1000 resamples; KID's: the jackknife. Spread: standard deviation of start positions within "
      "a prompt over that of the law. "
      "p: of the law for start positions (4 x 4), rotations (12) and angles of stripes and "
      "gradients (12). Area varies: standard "
      "deviation over its mean, over frames; colour varies: root mean square distance of a frame's "
      "colour from the clip's. Wrong hue, frame 0: share of the object's pixels in the first frame "
      "that are more than 22.5 degrees off the clip's hue.");
  report.table(
      {"row", "Frechet", "KID", "precision", "recall", "coverage", "latents' Wasserstein", "spread",
       "p starts", "p rotations", "p angles", "flicker", "saturation", "path residual, px",
       "fragments", "area varies", "colour varies", "wrong hue, frame 0"},
      quality);
}

void show_missing(Report& report, const Json& rows) {
  std::vector<std::vector<std::string>> lines;
  for (const Json& row : rows) {
    if (!is_done(row)) {
      lines.push_back({row["title"], row["status"], row["reason"]});
    }
  }
  if (!lines.empty()) {
    report.heading("Rows without numbers");
    report.table({"row", "status", "why"}, lines);
  }
}

// The losses of a run's metrics.jsonl, thinned; what cannot be read there is left out, since a run
// may be writing its last line. Distillation has two: the critic's, and the student's every few
// steps. A sum of them stands for runs that log nothing else.
std::vector<Series> read_curves(const Path& file) {
  constexpr int64_t kMaxBytes = int64_t{1} << 28;
  constexpr std::array kLosses = {"train_loss", "train_generator_loss", "train_fake_score_loss",
                                  "train_total_loss"};
  std::array<std::vector<std::pair<double, double>>, kLosses.size()> points;
  for (const std::string& line : split(read_file(file, kMaxBytes), '\n')) {
    const Json row = Json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (!row.is_object() || !row.contains("step") || !row["step"].is_number()) {
      continue;
    }
    for (std::size_t i = 0; i < kLosses.size(); ++i) {
      if (row.contains(kLosses[i]) && row[kLosses[i]].is_number()) {
        points[i].emplace_back(row["step"].get<double>(), row[kLosses[i]].get<double>());
      }
    }
  }
  std::vector<Series> curves;
  for (std::size_t i = 0; i < kLosses.size(); ++i) {
    const bool is_sum_of_others = i + 1 == kLosses.size() && !curves.empty();
    if (points[i].empty() || is_sum_of_others) {
      continue;
    }
    Series series{.name = kLosses[i], .points = {}};
    const std::size_t stride = std::max<std::size_t>(1, points[i].size() / kCurvePoints);
    for (std::size_t j = 0; j < points[i].size(); j += stride) {
      series.points.push_back(points[i][j]);
    }
    curves.push_back(std::move(series));
  }
  return curves;
}

void show_curves(Report& report, const config::Evaluation& evaluation) {
  if (evaluation.runs.empty()) {
    return;
  }
  report.heading("Training");
  for (const auto& [name, folder] : evaluation.runs) {
    const Path file = Path(folder) / "metrics.jsonl";
    if (!std::filesystem::exists(file)) {
      report.paragraph(str(name, ": no metrics, ", file.string(), " does not exist."));
      continue;
    }
    const std::vector<Series> curves = read_curves(file);
    if (curves.empty()) {
      report.paragraph(str(name, ": no losses in ", file.string(), "."));
    }
    for (const Series& curve : curves) {  // each its own axis: their sizes differ
      report.lines(str(name, ", ", curve.name), {.x = "step", .y = "loss"}, {curve});
    }
  }
}

}  // namespace

std::map<std::string, double> figures_of(const Json& document, const Json& elsewhere) {
  std::map<std::string, double> figures;
  for (const auto& [name, value] : elsewhere.items()) {
    if (value.is_number()) {
      figures[name] = value;
    }
  }
  for (const Json& row : document["rows"]) {
    if (is_done(row)) {
      add_row(row, figures);
      if (row["name"] == "real") {
        figures["detector.rendered.worst_attribute"] = worst(row["either"]);
      }
      if (row["name"] == "vae") {
        figures["vae.worst_attribute"] = worst(row["either"]);
      }
    }
  }
  for (const char* part : {"text", "features"}) {
    if (document.contains(part) && document[part].is_object()) {
      figures[str(part, ".worst_attribute")] = worst(document[part]);
    }
  }
  return figures;
}

std::map<std::string, int64_t> samples_of(const Json& document) {
  std::map<std::string, int64_t> samples;
  for (const Json& row : document["rows"]) {
    if (!is_done(row)) {
      continue;
    }
    const std::string name = row["name"];
    const int64_t seen = row["seen"]["clips"], held_out = row["held_out"]["clips"];
    std::map<std::string, double> figures;
    add_row(row, figures);
    for (const auto& [figure, value] : figures) {  // of seen clips but for what follows
      samples[figure] = figure.starts_with(name + ".held_out.") ? held_out : seen;
    }
    for (const char* measure : {"frechet", "kid", "precision", "recall", "coverage"}) {
      samples[str(name, ".", measure)] = seen + held_out;
    }
    samples.erase(name + ".latents_wasserstein");  // of however many latents were compared
    samples[name + ".position_spread"] = row["repeated"]["clips"];
    if (name == "real") {
      samples["detector.rendered.worst_attribute"] = seen + held_out;
    }
    if (name == "vae") {
      samples["vae.worst_attribute"] = seen + held_out;
    }
  }
  for (const char* part : {"text", "features"}) {
    if (document.contains(part) && document.contains("probe_samples")) {
      samples[str(part, ".worst_attribute")] = document["probe_samples"][part];
    }
  }
  return samples;
}

namespace {

// "0.5 x teacher.frechet", "teacher.seen.shape - 0.05"; empty: the bound is a number.
std::string bound_of(const config::Condition& condition) {
  if (condition.reference.empty()) {
    return "";
  }
  const double plus = condition.plus;
  return str(condition.times == 1 ? "" : format_metric(condition.times) + " x ",
             condition.reference,
             plus == 0 ? "" : (plus < 0 ? " - " : " + ") + format_metric(std::abs(plus)));
}

// The fewest behind a figure of the gate; nullopt: none of them counts clips.
std::optional<int64_t> fewest_of(const config::Gate& gate,
                                 const std::map<std::string, int64_t>& samples) {
  std::optional<int64_t> fewest;
  for (const config::Condition& condition : gate.conditions) {
    for (const std::string& figure : {condition.figure, condition.reference}) {
      if (const auto found = samples.find(figure); found != samples.end()) {
        fewest = std::min(fewest.value_or(found->second), found->second);
      }
    }
  }
  return fewest;
}

}  // namespace

Json verdicts_of(const std::vector<config::Gate>& gates,
                 const std::map<std::string, double>& figures,
                 const std::map<std::string, int64_t>& samples) {
  constexpr const char* kTooFew = "too few";
  Json out = Json::array();
  for (const config::GateResult& result : config::judge(gates, figures)) {
    Json conditions = Json::array();
    for (const config::ConditionResult& condition : result.conditions) {
      const auto number = [](const std::optional<double>& value) {
        return value ? Json(*value) : Json();
      };
      conditions.push_back({{"name", condition.condition->name},
                            {"figure", condition.condition->figure},
                            {"value", number(condition.value)},
                            {"comparison", name_of(condition.condition->comparison)},
                            {"bound", number(condition.bound)},
                            {"bound_of", bound_of(*condition.condition)},
                            {"holds", condition.holds}});
    }
    const std::optional<int64_t> fewest = fewest_of(*result.gate, samples);
    const bool is_read =
        result.verdict == config::Verdict::kPass || result.verdict == config::Verdict::kFail;
    const bool is_few = is_read && fewest && *fewest < result.gate->samples;
    out.push_back({{"id", result.gate->id},
                   {"quantity", result.gate->quantity},
                   {"kind", result.gate->is_fatal ? "fail" : "report"},
                   {"verdict", is_few ? kTooFew : name_of(result.verdict)},
                   {"samples", fewest ? Json(*fewest) : Json()},
                   {"wanted_samples", result.gate->samples},
                   {"conditions", std::move(conditions)}});
  }
  // What is read after a gate with too few, and after that in turn.
  const char* not_read = name_of(config::Verdict::kNotRead);
  for (std::size_t round = 0; round < gates.size(); ++round) {
    for (std::size_t i = 0; i < gates.size(); ++i) {  // out has the gates' order
      for (const Json& before : out) {
        if (before["id"] == gates[i].read_if &&
            (before["verdict"] == kTooFew || before["verdict"] == not_read)) {
          out[i]["verdict"] = not_read;
        }
      }
    }
  }
  return out;
}

void write_experiment_report(const config::Evaluation& evaluation, const Json& document) {
  Report report("Tiny shapes: evaluation");
  report.paragraph(str(evaluation.samples,
                       " prompts of seen combinations and as many of held-out "
                       "ones, ",
                       evaluation.prompts, " prompts with ", evaluation.samples_per_prompt,
                       " clips each; clips of ", evaluation.num_frames, " frames of ",
                       evaluation.num_width, " x ", evaluation.num_height, "; seed ",
                       evaluation.seed, "."));
  show_gates(report, document["gates"]);
  show_rows(report, document["rows"]);
  show_missing(report, document["rows"]);
  show_curves(report, evaluation);
  report.heading("Clips");
  report.paragraph("The first prompts of each row, one a line; the same prompts and noise in all.");
  for (const Json& row : document["rows"]) {
    if (!is_done(row)) {
      continue;
    }
    const Path sheet =
        Path(evaluation.output_dir) / "sheets" / (row["name"].get<std::string>() + ".png");
    if (std::filesystem::exists(sheet)) {
      report.png(row["title"], read_file(sheet));
    } else {  // its figures may have been made elsewhere and brought here alone
      report.paragraph(str(row["title"].get<std::string>(), ": ", sheet.string(), " is missing."));
    }
  }
  write_report(evaluation.output_dir, report, document);
}

}  // namespace fastwan::eval
