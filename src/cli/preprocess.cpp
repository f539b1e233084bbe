// `fastwan preprocess`, the torch-free part: flags and their checks; what needs no tensor
// (inspect, verify) is in preprocess_rows.cpp.
#include "cli/preprocess.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/options.h"
#include "cli/preprocess_call.h"
#include "cli/preprocess_rows.h"
#include "cli/progress.h"
#include "cli/request.h"
#include "cli/signals.h"
#include "cli/tensor_library.h"

namespace fastwan::cli {
namespace {

using Words = std::vector<std::string>;

constexpr const char* kAbout =
    "Clips with captions, or prompts, to training rows in Parquet files. Subcommands: synth (rows "
    "from a teacher), inspect, verify, decode";

// FastVideo spells every flag --preprocess.name. --task is spelled --task-type behind this line:
// prepare() knows a --task of another program's generate.
Words without_prefix(Words words) {
  constexpr std::string_view kPrefix = "--preprocess.";
  for (std::string& word : words) {
    if (word.starts_with(kPrefix)) {
      word = "--" + word.substr(kPrefix.size());
    }
    if (word == "--task" || word.starts_with("--task=")) {
      word = "--task-type" + word.substr(std::string_view("--task").size());
    }
  }
  return words;
}

Shard parse_shard(const std::string& text) {
  const std::vector<std::string> parts = split(text, '/');
  if (parts.size() == 2) {
    const auto index = parse_int(parts[0]), count = parse_int(parts[1]);
    if (index && count && *index >= 0 && *index < *count) {
      return {*index, *count};
    }
  }
  throw InvalidInput(Code::kBadValue, str("--shard must be i/n with 0 <= i < n, as 0/4, got ",
                                          escape_control(text)));
}

void require_word(const char* flag, const std::string& word, const Words& words) {
  if (std::find(words.begin(), words.end(), word) == words.end()) {
    throw InvalidInput(Code::kBadValue, str(flag, " must be one of ", join_first(words, 10),
                                            ", got ", escape_control(word)));
  }
}

void require_path(const char* flag, const Path& path) {
  if (path.empty()) {
    throw InvalidInput(Code::kUsage, str(flag, " is missing"));
  }
}

void require_range(const char* flag, double value, double least, double most) {
  if (!(value >= least && value <= most)) {
    throw InvalidInput(Code::kBadValue, str(flag, " must be in ", format_number(least), " to ",
                                            format_number(most), ", got ", format_number(value)));
  }
}

constexpr const char* kDatasetTypes =
    "merged (a folder with videos/ and videos2caption.json), json (an array of {\"path\", "
    "\"cap\"}), jsonl (one such object a line), text (one prompt a line)";

// By what lies there and its extension.
std::string dataset_type_of(const Path& path) {
  const auto status = std::filesystem::status(path);
  if (!std::filesystem::exists(status)) {
    throw_io_error(ENOENT, path, "open");
  }
  if (std::filesystem::is_directory(status)) {
    return "merged";
  }
  const std::string extension = to_lower(path.extension().string());
  for (const auto& [known, type] :
       {std::pair{".json", "json"}, {".jsonl", "jsonl"}, {".txt", "text"}}) {
    if (extension == known) {
      return type;
    }
  }
  throw InvalidInput(
      Code::kBadValue,
      str("--dataset-path ", escape_control(path.string()),
          ": its name does not say what it is. --dataset-type does: ", kDatasetTypes));
}

void check_dataset_type(const Path& path, const std::string& type) {
  const bool is_folder = std::filesystem::is_directory(path);
  if (std::filesystem::exists(path) && is_folder != (type == "merged")) {
    throw InvalidInput(Code::kConflict,
                       str("--dataset-type ", type, " does not go with --dataset-path ",
                           escape_control(path.string()), ", which is a ",
                           is_folder ? "folder" : "file", ". Types are ", kDatasetTypes));
  }
}

// What the flags of `preprocess` give besides the settings themselves.
struct Flags {
  PreprocessSettings settings;
  std::string model_path, dataset_path, output, shard = "0/1", on_bad_row = "stop";
  int64_t flush_frequency = 0;
  bool json = false;

  void add_to(CLI::App& app) {
    PreprocessSettings& s = settings;
    app.add_option("-m,--model-path", model_path, "Diffusers folder or cached hub id (org/name)")
        ->group("Input");
    app.add_option(
           "--dataset-path", dataset_path,
           "folder with videos/ and videos2caption.json; .json or .jsonl list; .txt prompts")
        ->group("Input");
    app.add_option("--dataset-type", s.dataset_type,
                   "merged|json|jsonl|text; default: by what --dataset-path is")
        ->group("Input");
    app.add_option("--task-type,--task", s.task, "t2v|i2v|text_only")->group("Output");
    app.add_option("--dataset-output-dir", output, "folder for combined_parquet_dataset/")
        ->group("Output");
    app.add_option("--samples-per-file", s.samples_per_file, "rows of a Parquet file")
        ->group("Output");
    app.add_option("--flush-frequency", flush_frequency, "no effect: rows are written as they come")
        ->group("Output");
    app.add_option("--num-frames", s.num_frames, "of a clip, 4k+1; default: the model's")
        ->group("Clip");
    app.add_option("--max-height", s.max_height, "pixels; default: the model's")->group("Clip");
    app.add_option("--max-width", s.max_width, "pixels; default: the model's")->group("Clip");
    app.add_option("--train-fps", s.train_fps, "frames per second; default: the model's")
        ->group("Clip");
    app.add_option("--video-length-tolerance-range", s.video_length_tolerance_range,
                   "videos longer than so many clips are left out")
        ->group("Clip");
    app.add_option("--speed-factor", s.speed_factor, "scales that limit")->group("Clip");
    app.add_flag("--do-temporal-sample", s.do_temporal_sample,
                 "a random window, not the first frames")
        ->group("Clip");
    app.add_option("--drop-short-ratio", s.drop_short_ratio,
                   "share of the too short videos that is left out")
        ->group("Clip");
    app.add_option("--seed", s.seed, "of windows and dropped videos")->group("Clip");
    app.add_option("--shard", shard, "i/n: part i of n, in a process of its own")->group("Run");
    app.add_option("--on-bad-row", on_bad_row, "stop|skip")->group("Run");
    app.add_option("--max-bad-rows", s.max_bad_rows, "stop after so many; 0: never")->group("Run");
    app.add_option("--device", s.device, "auto, cpu, cuda or cuda:i")->group("Run");
    app.add_option("--threads", s.threads, "CPU threads; 0 is all cores")->group("Run");
    app.add_flag("--json", json, "the result as one JSON document on stdout")->group("Run");
  }

  void check() {
    PreprocessSettings& s = settings;
    s.dataset_path = dataset_path;
    s.dataset_output_dir = output;
    require_path("--dataset-path", s.dataset_path);
    require_path("--dataset-output-dir", s.dataset_output_dir);
    if (s.dataset_type.empty()) {
      s.dataset_type = dataset_type_of(s.dataset_path);
    }
    require_word("--dataset-type", s.dataset_type, {"merged", "json", "jsonl", "text"});
    require_word("--task", s.task, {"t2v", "i2v", "text_only"});
    require_word("--on-bad-row", on_bad_row, {"stop", "skip"});
    if ((s.task == "text_only") != (s.dataset_type == "text")) {
      throw InvalidInput(Code::kConflict,
                         str("--dataset-type ", s.dataset_type, " does not go with --task ", s.task,
                             ": prompts alone are --dataset-type text --task text_only"));
    }
    check_dataset_type(s.dataset_path, s.dataset_type);
    require_range("--samples-per-file", static_cast<double>(s.samples_per_file), 1, 1e6);
    require_range("--video-length-tolerance-range", s.video_length_tolerance_range, 1e-3, 1e6);
    require_range("--drop-short-ratio", s.drop_short_ratio, 0, 1);
    require_range("--speed-factor", s.speed_factor, 1e-3, 1e3);
    require_range("--threads", static_cast<double>(s.threads), 0, 4096);
    require_range("--max-bad-rows", static_cast<double>(s.max_bad_rows), 0, 1e9);
    s.shard = parse_shard(shard);
    s.skips_bad_rows = on_bad_row == "skip";
  }
};

// What was not given is the model's own.
void fill_clip(PreprocessSettings& s, const config::Generate& model_defaults) {
  const auto fill = [](int64_t& value, int64_t fallback) { value = value == 0 ? fallback : value; };
  fill(s.num_frames, *model_defaults.num_frames);
  fill(s.max_height, *model_defaults.height);
  fill(s.max_width, *model_defaults.width);
  if (s.train_fps == 0) {
    s.train_fps = static_cast<double>(*model_defaults.fps);
  }
  require_range("--train-fps", s.train_fps, 0.1, 1000);
}

void print_report(const RowsReport& report, bool as_json) {
  if (as_json) {
    Json document = {{"path", report.folder.string()},
                     {"inputs", report.inputs},
                     {"rows", report.rows},
                     {"rows_found", report.rows_found},
                     {"left_out", Json::object()}};
    document["left_out"].update(report.left_out);
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
    return;
  }
  std::string text = str(report.rows, " rows of ", report.inputs, " inputs");
  if (report.rows_found > 0) {
    text += str(", ", report.rows_found, " of them from earlier runs");
  }
  for (const auto& [reason, count] : report.left_out) {
    text += str("; left out as ", reason, ": ", count);
  }
  std::fputs((text + "\n").c_str(), stderr);
  std::fputs((report.folder.string() + "\n").c_str(), stdout);
}

int run_rows(const Program& program, const Words& words) {
  CLI::App app(kAbout, "preprocess");
  Flags flags;
  flags.add_to(app);
  const Arguments arguments = prepare(without_prefix(words));
  if (!parse(app, arguments.words)) {
    return 0;
  }
  flags.check();
  config::Generate settings;
  settings.model_path.set(flags.model_path, config::Origin::kFlag);
  const layout::ModelFolder model = open_model(settings);
  resolve_request(settings, model);
  fill_clip(flags.settings, settings);
  check_device(flags.settings.device);

  const std::vector<Path> venvs = venvs_of(program);
  const StopOnSignal stop;
  ProgressPrinter progress(ProgressStyle::kAuto);
  const Watch watch{stop.token(), [&progress](const Progress& now) { progress.update(now); }};
  progress.begin_job(1, 1, flags.settings.dataset_path.string());
  const TensorLibrary library(program);
  const RowsReport report = library.preprocess(
      {.settings = flags.settings,
       .model = model,
       .media_roots = venvs,
       .watch = watch,
       .on_note = [&progress](const std::string& note) { progress.say("note: " + note); }});
  progress.end_job();
  print_report(report, flags.json);
  return 0;
}

// ours: flags of generate; theirs: the names that go with a teacher.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kSynthNames = {
    {{"--teacher", "--model-path"},
     {"--cfg", "--guidance-scale"},
     {"--shift", "--flow-shift"},
     {"--prompts", "--prompt-file"}}};

Words with_generate_names(Words words) {
  for (std::string& word : words) {
    for (const auto& [theirs, ours] : kSynthNames) {
      if (word == theirs || word.starts_with(str(theirs, '='))) {
        word = str(ours, word.substr(theirs.size()));
      }
    }
  }
  return words;
}

// Of generate's flags those that say something about a video, its making from given tensors, or its
// decoding: synth writes rows of latents for prompts.
constexpr std::array<std::string_view, 19> kOnlyOfVideos = {
    "--vae-precision", "--prompt-embeds",
    "--noise",         "--num-videos-per-prompt",
    "--image",         "--fit",
    "--vae-tiling",    "--output",
    "--output-path",   "--output-video-name",
    "--overwrite",     "--crf",
    "--contact-sheet", "--metadata",
    "--save-latents",  "--save-embeds",
    "--save-frames",   "--load-latents",
    "--report"};

bool is_only_of_videos(const std::string& name) {
  return std::find(kOnlyOfVideos.begin(), kOnlyOfVideos.end(), name) != kOnlyOfVideos.end();
}

// Those of them that the command line has; a run file of FASTWAN_CONFIG is for generate too.
struct GivenInVain {
  Words names;

  void group(const char*) {}
  template <class T>
  void field(const config::FieldInfo& info, config::Setting<T>& setting) {
    const std::string name = long_name(info);
    if (is_only_of_videos(name) && setting.is_set && setting.origin == config::Origin::kFlag) {
      names.push_back(name);
    }
  }
};

void refuse_flags_of_videos(config::Generate& settings) {
  GivenInVain given;
  config::describe(given, settings);
  if (!given.names.empty()) {
    throw InvalidInput(Code::kConflict,
                       str("synth does not take ", join_first(given.names, kOnlyOfVideos.size()),
                           ": it makes one row of latents a prompt, in the folder of --out"));
  }
  if (settings.image.is_set || *settings.rng == config::Rng::kTorch) {
    throw InvalidInput(Code::kConflict, "synth takes neither --image nor --rng torch");
  }
}

int run_synth(const Program& program, const Words& words) {
  CLI::App app(
      "Prompts to training rows: latents from a teacher, as the published synthetic sets were "
      "made. --teacher --prompts --cfg --shift are --model-path --prompt-file --guidance-scale "
      "--flow-shift; the other flags are those of generate that say how latents are sampled",
      "preprocess synth");
  config::Generate settings;
  SettingFlags flags(app, settings);
  for (const std::string_view name : kOnlyOfVideos) {
    app.get_option(std::string(name))->group("");  // known, so that it is refused by name; no help
  }
  std::string out, shard = "0/1";
  std::vector<int64_t> ode_timesteps;
  int64_t samples_per_file = 64, batch = 0;
  bool json = false;
  app.add_option("--out", out, "folder for combined_parquet_dataset/")->group("Rows");
  app.add_option("--shard", shard, "i/n: part i of n; the rows depend on n by rounding at most")
      ->group("Rows");
  app.add_option("--samples-per-file", samples_per_file, "rows of a Parquet file")->group("Rows");
  app.add_option("--batch", batch,
                 "clips sampled at once; 0: 1 on the CPU, on a GPU as many as fill it and fit, at "
                 "most 64. Rows depend on it by rounding at most; a run may go on with another")
      ->group("Rows");
  app.add_option("--ode-timesteps", ode_timesteps,
                 "rows of the teacher's trajectory for method ode: its states nearest to these, "
                 "falling from 1000 at most, and its end; such as 1000,757,522")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->group("Rows");
  app.add_flag("--json", json, "the result as one JSON document on stdout")->group("Rows");
  const Arguments arguments = prepare(with_generate_names(without_prefix(words)));
  if (!parse(app, arguments.words)) {
    return 0;
  }
  flags.apply();
  read_sources(settings, "", arguments.overrides);
  require_path("--out", out);
  require_range("--samples-per-file", static_cast<double>(samples_per_file), 1, 1e6);
  require_range("--batch", static_cast<double>(batch), 0, 1024);
  refuse_flags_of_videos(settings);
  if (*settings.seed < 0) {
    settings.seed.set(1000, config::Origin::kFlag);
  }
  const layout::ModelFolder model = open_model(settings);
  const Words prompts = collect_prompts(settings);
  Words notes = resolve_request(settings, model);
  check_device(*settings.device);

  const StopOnSignal stop;
  ProgressPrinter progress(ProgressStyle::kAuto);
  for (const std::string& note : notes) {
    progress.say("note: " + note);
  }
  const Watch watch{stop.token(), [&progress](const Progress& now) { progress.update(now); }};
  progress.begin_job(1, 1, str(prompts.size(), " prompts"));
  const TensorLibrary library(program);
  const RowsReport report = library.synthesize(
      {.settings = settings,
       .model = model,
       .prompts = prompts,
       .output = out,
       .shard = parse_shard(shard),
       .samples_per_file = samples_per_file,
       .batch = batch,
       .ode_timesteps = ode_timesteps,
       .watch = watch,
       .on_note = [&progress](const std::string& note) { progress.say("note: " + note); }});
  progress.end_job();
  print_report(report, json);
  return 0;
}

}  // namespace

int run_preprocess(const Program& program, const Words& words) {
  if (!words.empty()) {
    const Words rest(words.begin() + 1, words.end());
    if (words[0] == "synth") {
      return run_synth(program, rest);
    }
    if (words[0] == "inspect") {
      return inspect_rows(rest);
    }
    if (words[0] == "verify") {
      return verify_rows(rest);
    }
    if (words[0] == "decode") {
      return decode_rows(program, rest);
    }
  }
  return run_rows(program, words);
}

}  // namespace fastwan::cli
