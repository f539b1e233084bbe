// `fastwan eval experiment`: the rows, figures and gates of an experiment on procedural clips.
#include <cstdio>
#include <map>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/hub_cache.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/request.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "cli/tensor_library.h"
#include "config/evaluation.h"

namespace fastwan::cli {
namespace {

constexpr int kStoppedResumable = 75;

struct ExperimentFlags {
  std::string config, output, rows, device = "auto";
  int64_t samples = 0, batch = 0;
  double max_seconds = 0;
  bool json = false;
};

void add_flags(CLI::App& app, ExperimentFlags& flags) {
  app.add_option("--config", flags.config, "evaluation; YAML, see recipes/tiny-shapes")
      ->type_name("FILE");
  app.add_option("-o,--output", flags.output, "another folder for rows and report")
      ->type_name("FOLDER");
  app.add_option("--rows", flags.rows, "make these alone; names with commas between them")
      ->type_name("LIST");
  app.add_option("--samples", flags.samples, "prompts of each set; fewer for a quick look")
      ->type_name("N");
  app.add_option("--batch", flags.batch, "clips at once; on a CPU 8 are quicker than many")
      ->type_name("N");
  app.add_option("--max-seconds", flags.max_seconds,
                 "begin no row after that and exit with 75; the same command goes on")
      ->type_name("SECONDS");
  app.add_option("--device", flags.device, "auto, cpu, cuda or cuda:i")
      ->type_name("WORD")
      ->capture_default_str();
  app.add_flag("--json", flags.json, "one JSON document on stdout");
}

config::Evaluation evaluation_of(const ExperimentFlags& flags) {
  if (flags.config.empty()) {
    throw InvalidInput(Code::kUsage, "eval experiment needs --config FILE");
  }
  if (!(flags.max_seconds >= 0) || flags.batch < 0) {  // nor not a number
    throw InvalidInput(Code::kBadValue, "--max-seconds and --batch must not be negative");
  }
  config::Evaluation evaluation = config::read_evaluation(flags.config);
  if (flags.samples != 0) {
    config::set_samples(evaluation, flags.samples);
  }
  if (flags.batch > 0) {
    evaluation.batch = flags.batch;
  }
  if (!flags.output.empty()) {
    evaluation.output_dir = flags.output;
  }
  return evaluation;
}

// Hub ids become their folders in the local cache. What is nowhere stays: its rows are left out
// with a reason, as those of a model that is not trained yet.
void find_cached_models(config::Evaluation& evaluation, std::vector<std::string>& notes) {
  const auto find = [&notes](const std::string& key, std::string& model) {
    if (model.empty() || !is_hub_id(model)) {
      return;
    }
    try {
      model = find_model(model, "", key).string();
    } catch (const IoError& error) {
      notes.emplace_back(error.what());
    }
  };
  find("model", evaluation.model);
  for (config::EvaluationRow& row : evaluation.rows) {
    find("rows." + row.name + ".model", row.model);
  }
}

std::string cell(const Json& number) {
  return number.is_number() ? format_figure(number.get<double>()) : "";
}

// Why rows were not run, once for those that miss the same; failed ones have been told.
void print_reasons(const Json& document) {
  std::map<std::string, std::string> names;  // by reason
  for (const Json& row : document["rows"]) {
    if (row["status"] == "not_run") {
      std::string& list = names[row["reason"].get<std::string>()];
      list += (list.empty() ? "" : ", ") + row["name"].get<std::string>();
    }
  }
  for (const auto& [reason, list] : names) {
    std::fputs(("not run: " + escape_control(str(list, ": ", reason)) + "\n").c_str(), stderr);
  }
}

void print(const Json& document) {
  Table rows;
  rows.add({"row", "status", "seen", "held out", "frechet", "coverage"});
  for (const Json& row : document["rows"]) {
    const std::string name = row["name"], status = row["status"];
    if (status != "done") {
      rows.add({name, status == "not_run" ? "not run" : status, "", "", "", ""});
      continue;
    }
    rows.add({name, status, cell(row["seen"]["all_correct"]["value"]),
              cell(row["held_out"]["all_correct"]["value"]),
              cell(row["distances"]["frechet"]["value"]), cell(row["distances"]["coverage"])});
  }
  std::fputs((rows.text() + "\n").c_str(), stdout);
  Table gates;
  gates.add({"gate", "verdict", "clips"});
  for (const Json& gate : document["gates"]) {
    gates.add({gate["id"], gate["verdict"],
               gate["samples"].is_number() ? std::to_string(gate["samples"].get<int64_t>()) : ""});
  }
  std::fputs(gates.text().c_str(), stdout);
}

}  // namespace

int run_eval_experiment(const Program& program, const std::vector<std::string>& words) {
  CLI::App app("Rows, figures and gates of an experiment on procedural clips", "eval experiment");
  ExperimentFlags flags;
  add_flags(app, flags);
  if (!parse(app, words)) {
    return 0;
  }
  config::Evaluation evaluation = evaluation_of(flags);
  check_device(flags.device);
  std::vector<std::string> notes;
  find_cached_models(evaluation, notes);
  std::vector<std::string> rows;
  for (const std::string& row : split(flags.rows, ',')) {
    if (!trim(row).empty()) {
      rows.emplace_back(trim(row));
    }
  }
  if (rows.empty() && !flags.rows.empty()) {
    throw InvalidInput(Code::kBadValue, "--rows names no row; without it all are made");
  }
  const StopOnSignal stop;
  ProgressPrinter progress(ProgressStyle::kAuto);
  const Watch watch{stop.token(), [&progress](const Progress& now) { progress.update(now); }};
  const TensorLibrary library(program);
  std::vector<std::string> gpu_names;
  for (const Gpu& gpu : survey_gpus().gpus) {
    gpu_names.push_back(gpu.name);
  }
  progress.begin_job(1, 1, "eval experiment");
  const Json document = library.run_experiment(
      {.evaluation = evaluation,
       .rows = rows,
       .max_seconds = flags.max_seconds,
       .device = flags.device,
       .cpu_name = cpu_name(),
       .gpu_names = gpu_names,
       .watch = watch,
       .on_note = [&](const std::string& note) { progress.say("note: " + note); }});
  progress.end_job();
  for (const std::string& note : notes) {  // why rows were not run
    std::fputs(("note: " + escape_control(note) + "\n").c_str(), stderr);
  }
  if (flags.json) {
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
  } else {
    print(document);
    print_reasons(document);
    std::fputs(((Path(evaluation.output_dir) / "report.html").string() + "\n").c_str(), stdout);
  }
  for (const Json& row : document["rows"]) {
    if (row["status"] == "failed") {  // before 75: the same command would fail again
      return row["exit"].get<int>();
    }
  }
  return document["complete"].get<bool>() ? 0 : kStoppedResumable;
}

}  // namespace fastwan::cli
