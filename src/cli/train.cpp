// `fastwan train`, also spelled finetune and distill: the torch-free part. The recipe is read and
// checked here; libfastwan.so trains.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/hub_cache.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/signals.h"
#include "cli/tensor_library.h"
#include "cli/train_arguments.h"
#include "cli/train_plan.h"
#include "cli/train_progress.h"
#include "cli/version.h"
#include "config/assign.h"
#include "models/layout/published.h"

namespace fastwan::cli {
namespace {

constexpr int kStoppedResumable = 75;

struct TrainFlags {
  std::string config, method, resume, allow_change, device = "auto", threads = "0", profile;
  std::string tera_per_second = "400", gpu_memory, progress = "auto", log_level;
  bool is_dry_run = false, prints_recipe = false, is_deterministic = false, json = false;
};

void add_flags(CLI::App& app, TrainFlags& flags) {
  const auto option = [&app](const char* names, std::string& value, const char* type,
                             const char* help, const char* group = "Run") {
    app.add_option(names, value, help)->type_name(type)->group(group);
  };
  option("--config", flags.config, "FILE", "recipe; YAML, ours or FastVideo's");
  option("--method", flags.method, "WORD", "finetune|distill|ode|vae|text|features");
  option("--resume,--resume-from-checkpoint", flags.resume, "WHICH",
         "auto: the newest valid checkpoint, else fresh; latest, none or a folder");
  option("--allow-change", flags.allow_change, "LIST",
         "differences from the checkpoint to accept: seed, dataset, world_size, config or keys");
  option("--device", flags.device, "WHERE", "auto, cpu, cuda or cuda:i");
  option("--threads", flags.threads, "N", "CPU threads; 0 is all cores");
  option("--profile", flags.profile, "FILE",
         "trace of the 11th to 13th iteration, or the last three of a shorter run, as JSON for "
         "chrome://tracing or Perfetto");
  option("--progress", flags.progress, "WORD", "auto|log|json|none");
  option("--log-level", flags.log_level, "WORD", "error|warn|info|debug|trace");
  app.add_flag("--deterministic", flags.is_deterministic,
               "only operations that give the same bits every time")
      ->group("Run");
  app.add_flag("--dry-run", flags.is_dry_run, "memory and work, without loading weights")
      ->group("Plan");
  app.add_flag("--print-recipe", flags.prints_recipe, "the complete recipe as YAML, and stop")
      ->group("Plan");
  app.add_flag("--json", flags.json, "one JSON document on stdout")->group("Plan");
  option("--tflops", flags.tera_per_second, "X", "rate of a process that the hours assume", "Plan");
  option("--gpu-memory", flags.gpu_memory, "GB", "memory of a process to plan for", "Plan");
  app.footer(
      "Settings of the recipe: --training.optimizer.learning_rate=1e-5 and so on; roots are "
      "models. "
      "method. training. callbacks. pipeline.\n"
      "FastVideo's flat flags (--data-path, --learning-rate, --hsdp-shard-dim, ...) are accepted "
      "with '-' or '_'.");
}

std::vector<std::string> own_names(const CLI::App& app) {
  std::vector<std::string> names = {"--help"};
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      names.push_back("--" + name);
    }
  }
  return names;
}

void print_notes(const std::vector<std::string>& notes) {
  for (const std::string& note : notes) {
    std::fputs(("note: " + escape_control(note) + "\n").c_str(), stderr);
  }
}

int print_plan(const config::Recipe& recipe, const TrainFlags& flags) {
  constexpr double kGiga = 1e9;
  PlanOptions options;
  options.tera_per_second = config::to_number(flags.tera_per_second, {1e-6, 1e6}, "--tflops");
  if (!flags.gpu_memory.empty()) {
    options.rank_memory = kGiga * config::to_number(flags.gpu_memory, {1e-3, 1e6}, "--gpu-memory");
  } else if (const GpuSurvey survey = survey_gpus(); !survey.gpus.empty()) {
    options.rank_memory = static_cast<double>(survey.gpus[0].memory_bytes);
  }
  std::vector<std::string> notes;
  const TrainPlan plan = plan_training(recipe, options, notes);
  print_notes(notes);
  const std::string text = flags.json ? dump_json(plan_json(plan)) + "\n" : plan_text(plan);
  std::fputs(text.c_str(), stdout);
  return 0;
}

// A recipe that cannot run is still one to print and to change.
void note_image_models(const config::Recipe& recipe, std::vector<std::string>& notes) {
  for (const auto& [role, model] : recipe.models) {
    if (layout::is_clip_conditioned(model.init_from)) {
      notes.push_back(str("models.", role, ".init_from ", model.init_from,
                          ", so this recipe will not run: ", layout::kNoImageBranch));
    }
  }
}

struct RecipeKeys {
  std::vector<std::string> all;

  template <class T>
  void field(const config::RecipeField& info, T&) {
    all.push_back(info.key);
  }
};

// What may differ from the checkpoint; of any role, as a changed method changes the roles.
std::vector<std::string> allowed_changes(const std::string& list) {
  const std::vector<std::string> words = {"seed", "dataset", "world_size", "config"};
  RecipeKeys keys{words};
  config::Recipe any;
  for (const char* role : {"student", "teacher", "critic"}) {
    any.models[role];
  }
  config::describe(keys, any);
  std::vector<std::string> allowed;
  for (const std::string& part : split(list, ',')) {
    const std::string word(trim(part));
    if (word.empty()) {
      continue;
    }
    if (std::find(keys.all.begin(), keys.all.end(), word) == keys.all.end()) {
      const std::optional<std::string> guess = nearest(word, keys.all);
      throw InvalidInput(Code::kBadValue,
                         str("--allow-change takes ", join_first(words, words.size()),
                             " and keys of the recipe, as training.optimizer.learning_rate, got ",
                             escape_control(word), guess ? ". Did you mean " + *guess + "?" : ""));
    }
    allowed.push_back(word);
  }
  return allowed;
}

config::TrainRun run_of(const Program& program,
                        const config::Recipe& recipe,
                        const TrainFlags& flags) {
  config::TrainRun run;
  run.resume =
      flags.resume.empty() ? recipe.training.checkpoint.resume_from_checkpoint : flags.resume;
  run.allow_change = allowed_changes(flags.allow_change);
  run.deterministic = flags.is_deterministic;
  run.profile = flags.profile;
  run.snapshots = find_models(recipe);
  run.device = flags.device;
  run.threads = config::to_int(flags.threads, {0, 4096}, "--threads");
  run.media_roots = venvs_of(program);
  run.cpu_name = cpu_name();
  for (const Gpu& gpu : survey_gpus().gpus) {
    run.gpu_names.push_back(gpu.name);
    run.gpu_rates.push_back(promised_rate(gpu.name).value_or(0));
  }
  return run;
}

int stopped_status(int signal) {
  return signal == SIGINT ? info(Code::kStopped).exit_status : kStoppedResumable;
}

// 0 done; 75 stopped, and the same command goes on; 130 by Ctrl-C, which also left a checkpoint.
int exit_status(const config::TrainReport& report, const std::string& resume, int signal) {
  if (report.is_complete) {
    return 0;
  }
  const bool finds_it = resume == "auto" || resume == "latest";
  std::fputs(
      str("stopped after iteration ", report.step, ", ", report.checkpoint.string(),
          "; the same command ", finds_it ? "" : "with --resume auto ", "goes on from there\n")
          .c_str(),
      stderr);
  return stopped_status(signal);
}

// Where there is no iteration to finish: while it loads, and while it writes the last export.
// nullopt: stopped, and said.
std::optional<config::TrainReport> report_of(const TensorLibrary& library,
                                             const TrainCall& call,
                                             const std::string& resume) {
  try {
    return library.train(call);
  } catch (const Stopped&) {
    std::fputs(resume == "none" ? "stopped\n" : "stopped; the same command goes on\n", stderr);
    return std::nullopt;
  }
}

Json report_document(const config::TrainReport& report) {
  Json exports = Json::array();
  for (const Path& file : report.exports) {
    exports.push_back(file.string());
  }
  return {{"version", kVersion},
          {"device", report.device},
          {"step", report.step},
          {"complete", report.is_complete},
          {"checkpoint", report.checkpoint.string()},
          {"exports", exports}};
}

int train(const Program& program, const config::Recipe& recipe, const TrainFlags& flags) {
  if (!flags.profile.empty()) {
    require_writable_folder(Path(flags.profile).parent_path());
  }
  const config::TrainRun run = run_of(program, recipe, flags);
  StopOnSignal signals({SIGUSR1});
  TrainProgressPrinter progress(flags.progress);
  const config::TrainListener listener{
      .on_progress = [&](const config::TrainProgress& now) { progress.update(now); },
      .on_note = [&](const std::string& note) { progress.say("note: " + note); }};
  const Watch watch{.stop = signals.token(), .on_progress = {}};
  const TensorLibrary library(program);
  const std::optional<config::TrainReport> report = report_of(
      library, {.recipe = recipe, .run = run, .listener = listener, .watch = watch}, run.resume);
  if (!report) {
    return stopped_status(signals.first());
  }
  if (flags.json) {
    std::fputs((dump_json(report_document(*report)) + "\n").c_str(), stdout);
  } else {
    for (const Path& file : report->exports) {
      std::fputs((file.string() + "\n").c_str(), stdout);
    }
  }
  std::fflush(stdout);
  const int status = exit_status(*report, run.resume, signals.first());
  if (!run.profile.empty()) {
    // CUPTI, once it has recorded, calls into the profiler while a process takes itself apart, and
    // may find it gone: everything is written, so this one ends without.
    std::quick_exit(status);
  }
  return status;
}

void set_log_level(const std::string& word) {
  if (word.empty()) {
    return;
  }
  const auto level = log::parse_level(word);
  if (!level) {
    throw InvalidInput(
        Code::kBadValue,
        str("--log-level must be error, warn, info, debug or trace, got ", escape_control(word)));
  }
  log::set_level(*level);
}

int run(const Program& program,
        const std::vector<std::string>& words,
        const char* command,
        const std::string& method) {
  CLI::App app("Trains by a recipe", command);
  TrainFlags flags;
  add_flags(app, flags);
  const TrainArguments arguments = split_train_arguments(words, own_names(app));
  if (!parse(app, arguments.words)) {
    return 0;
  }
  if (!method.empty() && !flags.method.empty() && flags.method != method) {
    throw InvalidInput(Code::kConflict, str("`fastwan ", command, "` is method ", method,
                                            ", --method says ", escape_control(flags.method)));
  }
  if (flags.config.empty() && arguments.flat_flags.empty() && arguments.overrides.empty()) {
    throw InvalidInput(Code::kUsage, "--config FILE is not given: a recipe, see recipes/");
  }
  set_log_level(flags.log_level);
  std::vector<std::string> notes;
  const config::Recipe recipe =
      assemble_recipe(flags.config, method.empty() ? flags.method : method, arguments, notes);
  if (flags.prints_recipe) {
    note_image_models(recipe, notes);
  }
  print_notes(notes);
  if (flags.prints_recipe) {
    std::fputs(config::to_yaml(recipe).c_str(), stdout);
    return 0;
  }
  return flags.is_dry_run ? print_plan(recipe, flags) : train(program, recipe, flags);
}

}  // namespace

int run_train(const Program& program, const std::vector<std::string>& words) {
  return run(program, words, "train", "");
}

int run_finetune(const Program& program, const std::vector<std::string>& words) {
  return run(program, words, "finetune", "finetune");
}

int run_distill(const Program& program, const std::vector<std::string>& words) {
  return run(program, words, "distill", "distill");
}

}  // namespace fastwan::cli
