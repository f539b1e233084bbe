// `fastwan generate`, the torch-free part: what was asked, is it legal, where does it go. The work
// is libfastwan.so's.
#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>
#include <thread>

#include <CLI/CLI.hpp>
#include <sys/resource.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/env.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/metadata.h"
#include "cli/options.h"
#include "cli/outputs.h"
#include "cli/progress.h"
#include "cli/request.h"
#include "cli/signals.h"
#include "cli/tensor_library.h"
#include "cli/version.h"
#include "config/resolve.h"
#include "io/media.h"

namespace fastwan::cli {
namespace {

struct RunFlags {
  std::string config, progress = "auto", log_level, log_format = "text";
  bool json = false;
};

ProgressStyle parse_progress(const std::string& word) {
  constexpr std::array<std::pair<const char*, ProgressStyle>, 5> kStyles = {
      {{"auto", ProgressStyle::kAuto},
       {"bar", ProgressStyle::kBar},
       {"log", ProgressStyle::kLog},
       {"json", ProgressStyle::kJson},
       {"none", ProgressStyle::kNone}}};
  for (const auto& [name, style] : kStyles) {
    if (word == name) {
      return style;
    }
  }
  throw InvalidInput(Code::kBadValue, str("--progress must be auto, bar, log, json or none, got ",
                                          escape_control(word)));
}

void set_up_log(const RunFlags& flags) {
  if (!flags.log_level.empty()) {
    const auto level = log::parse_level(flags.log_level);
    if (!level) {
      throw InvalidInput(Code::kBadValue,
                         str("--log-level must be error, warn, info, debug or trace, got ",
                             escape_control(flags.log_level)));
    }
    log::set_level(*level);
  }
  if (flags.log_format != "text" && flags.log_format != "json") {
    throw InvalidInput(Code::kBadValue, str("--log-format must be text or json, got ",
                                            escape_control(flags.log_format)));
  }
  log::set_json(flags.log_format == "json");
}

void add_run_flags(CLI::App& app, RunFlags& flags) {
  const char* group = "Run";
  app.add_option("--config", flags.config, "YAML run file; flags override it")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--progress", flags.progress, "auto|bar|log|json|none")
      ->type_name("WORD")
      ->group(group);
  app.add_option("--log-level", flags.log_level, "error|warn|info|debug|trace")
      ->type_name("WORD")
      ->group(group);
  app.add_option("--log-format", flags.log_format, "text|json")->type_name("WORD")->group(group);
  app.add_flag("--json", flags.json, "results as one JSON document on stdout")->group(group);
}

int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

Json result_document(const VideoResult& result, const std::string& prompt) {
  Json seconds = Json::object();
  for (const auto& [stage, value] : result.stage_seconds) {
    seconds[stage] = value;
  }
  const std::vector<Path>& files = result.files;
  Json document = {{"path", files.empty() ? "" : files.front().string()},
                   {"prompt", prompt},
                   {"seed", result.seed},
                   {"stage_seconds", seconds}};
  if (!result.latents_sha256.empty()) {
    document["latents_sha256"] = result.latents_sha256;
  }
  if (!result.contact_sheet.empty()) {
    document["contact_sheet"] = result.contact_sheet.string();
  }
  if (files.size() == 1) {
    document["sha256"] = sha256_file(files.front());
  } else if (!files.empty()) {
    Json paths = Json::array();
    for (const Path& file : files) {
      paths.push_back(file.string());
    }
    document["frame_paths"] = paths;
  }
  return document;
}

void print_paths(const VideoResult& result) {
  std::vector<Path> files = result.files;
  if (!result.contact_sheet.empty()) {
    files.push_back(result.contact_sheet);
  }
  for (const Path& file : files) {
    std::fputs((file.string() + "\n").c_str(), stdout);
  }
  std::fflush(stdout);
}

}  // namespace

int run_generate(const Program& program, const std::vector<std::string>& words) {
  CLI::App app("Text, or text and a first frame, to video", "generate");
  config::Generate settings;
  SettingFlags flags(app, settings);
  RunFlags run;
  add_run_flags(app, run);
  const Arguments arguments = prepare(words);
  if (!parse(app, arguments.words)) {
    return 0;
  }
  set_up_log(run);
  flags.apply();
  std::vector<std::string> notes = arguments.notes;
  for (const std::string& note : read_sources(settings, run.config, arguments.overrides)) {
    notes.push_back(note);
  }

  const layout::ModelFolder model = open_model(settings);
  const std::vector<std::string> prompts = collect_prompts(settings);
  for (const std::string& note : resolve_request(settings, model)) {
    notes.push_back(note);
  }
  for (const std::string& note : vocabulary_notes(model, prompts)) {
    notes.push_back(note);
  }
  check_inputs_exist(settings);
  const std::vector<Path> outputs = choose_outputs(settings, prompts);
  const std::vector<SideFiles> side_files = choose_side_outputs(settings, outputs);
  check_device(*settings.device);
  const std::vector<Path> venvs = venvs_of(program);

  std::vector<VideoJob> jobs;
  const auto per_prompt = static_cast<std::size_t>(*settings.num_videos_per_prompt);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    jobs.push_back({prompts[i / per_prompt], *settings.seed + static_cast<int64_t>(i % per_prompt),
                    outputs[i], side_files[i]});
  }

  const StopOnSignal stop;
  ProgressPrinter progress(parse_progress(run.progress));
  for (const std::string& note : notes) {
    progress.say("note: " + note);
  }
  const Watch watch{stop.token(), [&progress](const Progress& now) { progress.update(now); }};
  Json results = Json::array();
  std::size_t finished = 0;
  const GenerateCall call{.settings = settings,
                          .model = model,
                          .jobs = jobs,
                          .media_roots = venvs,
                          .metadata = request_metadata(settings, model),
                          .watch = watch,
                          .on_begin =
                              [&](int64_t job) {
                                const VideoJob& now = jobs[static_cast<std::size_t>(job)];
                                progress.begin_job(job + 1, static_cast<int64_t>(jobs.size()),
                                                   now.prompt);
                              },
                          .on_result =
                              [&](const VideoResult& result) {
                                progress.end_job();
                                results.push_back(result_document(result, jobs[finished++].prompt));
                                if (!run.json) {
                                  print_paths(result);
                                }
                              },
                          .on_note =
                              [&](const std::string& note) {
                                notes.push_back(note);
                                progress.say("note: " + note);
                              }};
  const TensorLibrary library(program);
  const GenerateReport report = library.generate(call);

  Json document = {{"version", kVersion},
                   {"device", report.device},
                   {"threads", report.threads},
                   {"offload", report.offload},
                   {"peak_memory_bytes", peak_memory_bytes()},
                   {"settings", settings_document(settings)},
                   {"warnings", notes},
                   {"results", results}};
  if (settings.report.is_set) {
    write_durably(*settings.report, dump_json(document) + "\n");
  }
  if (run.json) {
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
  }
  return 0;
}

}  // namespace fastwan::cli
