// `fastwan eval`: what can be measured, of one set of videos or against another.
#include <cstdio>
#include <filesystem>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/request.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "cli/tensor_library.h"
#include "eval/metrics.h"

namespace fastwan::cli {
namespace {

const char* needs_of(eval::Needs needs) {
  switch (needs) {
    case eval::Needs::kVideos:
      return "videos";
    case eval::Needs::kPairs:
      return "pairs of equal names";
    case eval::Needs::kFeatures:
      return "features";
  }
  return "";
}

int list_metrics(bool json) {
  Json list = Json::array();
  Table table;
  for (const eval::MetricInfo& metric : eval::kMetrics) {
    const std::string name(metric.name), about(metric.about);
    list.push_back({{"name", name}, {"needs", needs_of(metric.needs)}, {"about", about}});
    table.add({name, needs_of(metric.needs), about});
  }
  std::fputs((json ? dump_json(list) + "\n" : table.text()).c_str(), stdout);
  return 0;
}

std::string cell(const Json& entry, const char* key) {
  if (entry.contains(key) && entry[key].is_string()) {  // "infinite"
    return entry[key].get<std::string>();
  }
  if (!entry.contains(key) || !entry[key].is_number()) {
    return "";
  }
  return format_figure(entry[key].get<double>());
}

void print(const Json& document) {
  Table table;
  table.add({"metric", "value", "low", "high", "floor"});
  for (const auto& [name, entry] : document["metrics"].items()) {
    if (entry.contains("value")) {
      table.add({name, cell(entry, "value"), cell(entry, "low"), cell(entry, "high"),
                 cell(entry, "floor")});
      continue;
    }
    for (const auto& [part, share] : entry.items()) {  // attributes
      if (share.is_object()) {
        table.add(
            {name + "." + part, cell(share, "value"), cell(share, "low"), cell(share, "high")});
      }
    }
  }
  std::fputs(table.text().c_str(), stdout);
}

// The weights that come with the embedded model, where they lie beside the program.
Path default_features(const Program& program) {
  const Path root = program.executable.parent_path().parent_path().parent_path().parent_path();
  const Path file = root / "models" / "tiny-shapes" / "features" / "model.safetensors";
  return std::filesystem::exists(file) ? file : Path();
}

}  // namespace

int run_eval(const Program& program, const std::vector<std::string>& words) {
  if (!words.empty() && words[0] == "experiment") {
    return run_eval_experiment(program, {words.begin() + 1, words.end()});
  }
  CLI::App app("Videos measured, alone or against others: `list` the metrics, or `run`", "eval");
  app.footer(
      "`fastwan eval experiment --help`: the rows and gates of an experiment on procedural clips");
  constexpr int kWords = 100;  // more than fit, so that the message is ours
  std::vector<std::string> action;
  std::string videos, reference, metrics = "psnr,ssim,mse,flicker", features, output;
  std::string device = "auto";
  double fps = 0;
  bool json = false;
  app.add_option("action", action, "list, run, or experiment")->expected(0, kWords);
  app.add_option("--videos", videos,
                 "folder of mp4, mov, mkv, webm, safetensors with `frames`, folders of png; or one "
                 "safetensors file")
      ->type_name("PATH");
  app.add_option("--reference", reference,
                 "the same, what to compare with; flicker, and attributes of clips with codes, do "
                 "without")
      ->type_name("PATH");
  app.add_option("--metrics", metrics, "names with commas between them; `eval list` shows them")
      ->type_name("LIST")
      ->capture_default_str();
  app.add_option("--features", features,
                 "safetensors: weights of the feature net, or `videos` [n, d] and `reference` "
                 "[m, d]; default: the net of the embedded model, if it has one")
      ->type_name("FILE");
  app.add_option("--device", device, "auto, cpu, cuda or cuda:i")
      ->type_name("WORD")
      ->capture_default_str();
  app.add_option("--fps", fps, "take frames at this rate; 0: as they are")->type_name("NUMBER");
  app.add_option("-o,--output", output, "folder for report.html and report.json")
      ->type_name("FOLDER");
  app.add_flag("--json", json, "one JSON document on stdout");
  if (!parse(app, words)) {
    return 0;
  }
  if (action.size() == 1 && action[0] == "list") {
    return list_metrics(json);
  }
  if (action.size() != 1 || action[0] != "run") {
    throw InvalidInput(Code::kUsage, str("eval knows `list`, `run` and `experiment`, got ",
                                         action.empty() ? "neither" : escape_control(action[0])));
  }
  if (videos.empty()) {
    throw InvalidInput(
        Code::kUsage,
        "eval run needs --videos PATH, and --reference PATH for metrics that compare");
  }
  if (!(fps >= 0 && fps <= 1000)) {  // nor not a number
    throw InvalidInput(Code::kBadValue,
                       str("--fps must be from 0 to 1000, got ", format_number(fps)));
  }
  check_device(device);
  if (!output.empty()) {
    require_writable_folder(output);
  }

  std::vector<std::string> asked;
  for (const std::string& metric : split(metrics, ',')) {
    if (!trim(metric).empty()) {
      asked.emplace_back(trim(metric));
    }
  }
  const StopOnSignal stop;
  ProgressPrinter progress(ProgressStyle::kAuto);
  const Watch watch{stop.token(), [&progress](const Progress& now) { progress.update(now); }};
  const std::vector<Path> venvs = venvs_of(program);
  Json notes = Json::array();
  const TensorLibrary library(program);
  progress.begin_job(1, 1, "eval");
  Json document =
      library.evaluate({.videos = videos,
                        .reference = reference,
                        .features = features.empty() ? default_features(program) : Path(features),
                        .output = output,
                        .metrics = asked,
                        .fps = fps,
                        .device = device,
                        .media_roots = venvs,
                        .watch = watch,
                        .on_note = [&](const std::string& note) {
                          notes.push_back(note);
                          progress.say("note: " + note);
                        }});
  progress.end_job();
  document["warnings"] = notes;
  if (json) {
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
    return 0;
  }
  print(document);
  if (!output.empty()) {
    std::fputs(((Path(output) / "report.html").string() + "\n").c_str(), stdout);
  }
  return 0;
}

}  // namespace fastwan::cli
