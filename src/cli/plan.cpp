// `fastwan plan`: what a request will take, without loading weights. The same flags as generate.
#include <cstdio>
#include <optional>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/estimate.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/table.h"
#include "config/assign.h"
#include "config/resolve.h"

namespace fastwan::cli {
namespace {

// Where it would run, and what is free there.
struct Place {
  std::string device;
  bool is_gpu = false;
  std::optional<double> memory;  // unknown: that GPU is not in this machine
  double host_memory = 0;
};

Place place_of(const std::string& asked) {
  Place place{.device = "cpu", .host_memory = static_cast<double>(available_memory_bytes())};
  const std::optional<std::size_t> index = gpu_index(asked);
  const GpuSurvey survey = asked == "cpu" ? GpuSurvey{} : survey_gpus();
  if (!index && survey.gpus.empty()) {
    place.memory = place.host_memory;
    return place;
  }
  const std::size_t gpu = index.value_or(0);
  place.is_gpu = true;
  place.device = str("cuda:", gpu);
  if (gpu < survey.gpus.size()) {
    place.memory = static_cast<double>(survey.gpus[gpu].memory_bytes);
  }
  return place;
}

struct Choice {
  const Residency* residency = nullptr;
  bool fits = false;
};

bool fits(const Residency& residency, const Place& place) {
  return (!place.memory || residency.peak_bytes <= *place.memory) &&
         residency.host_bytes <= place.host_memory;
}

// What was asked for; with auto the first that fits, or the last. On the CPU, where weights are in
// host memory anyway, by layer is by stage.
Choice choose(const Estimate& it, config::Offload asked, const Place& place) {
  for (const Residency& residency : it.residencies) {
    const bool is_taken =
        asked == config::Offload::kAuto ? fits(residency, place) : residency.mode == asked;
    if (is_taken) {
      return {&residency, fits(residency, place)};
    }
  }
  const Residency& last = it.residencies.back();
  return {&last, fits(last, place)};
}

Json to_json(const Estimate& it, const Place& place, const Choice& choice) {
  Json document = {
      {"device", place.device},
      {"available_bytes", place.memory ? Json(*place.memory) : Json(nullptr)},
      {"latent", {it.latent.channels, it.latent.frames, it.latent.height, it.latent.width}},
      {"tokens", it.grid.num_tokens()},
      {"token_grid", {it.grid.T, it.grid.H, it.grid.W}},
      {"tiles", it.grid.num_tiles()},
      {"topk", it.topk == 0 ? Json(nullptr) : Json(it.topk)},
      {"text_tokens", it.text_tokens},
      {"forwards", it.num_forwards},
      {"components", Json::array()},
      {"stages", Json::array()},
      {"flops", it.total_work()},
      {"offload", config::name_of(choice.residency->mode)},
      {"peak_bytes", choice.residency->peak_bytes},
      {"host_bytes", choice.residency->host_bytes},
      {"fits", choice.fits}};
  for (const HeldComponent& component : it.components) {
    document["components"].push_back({{"name", component.name},
                                      {"files", component.num_files},
                                      {"file_bytes", component.file_bytes},
                                      {"parameters", component.parameters},
                                      {"bytes", component.bytes},
                                      {"held_as", component.held_as}});
  }
  for (const StageCost& stage : it.stages) {
    document["stages"].push_back({{"name", stage.name},
                                  {"flops", stage.work},
                                  {"weight_bytes", stage.weights},
                                  {"activation_bytes", stage.activations},
                                  {"peak_bytes", stage.weights + stage.activations}});
  }
  return document;
}

std::string shape_lines(const Estimate& it, const config::Generate& g, const Place& place) {
  Table table;
  table.add(
      {"video", str(*g.width, "x", *g.height, ", ", *g.num_frames, " frames at ", *g.fps, " fps")});
  table.add({"latents", str(it.latent.channels, " x ", it.latent.frames, " x ", it.latent.height,
                            " x ", it.latent.width)});
  if (it.num_forwards > 0) {
    const std::string attention =
        it.topk == 0 ? "full attention"
                     : str(it.grid.num_tiles(), " tiles, ", it.topk, " kept for each");
    table.add({"tokens", str(it.grid.num_tokens(), " (", it.grid.T, " x ", it.grid.H, " x ",
                             it.grid.W, "), ", attention)});
    table.add({"steps", str(*g.steps, " of ", config::name_of(*g.sampler), ", ", it.num_forwards,
                            " forwards")});
  }
  table.add(
      {"device", str(place.device, place.memory ? ", " + format_bytes(*place.memory) + " available"
                                                : ", which this machine does not have")});
  return table.text();
}

std::string cost_tables(const Estimate& it) {
  Table components;
  components.add({"component", "files", "size", "parameters", "held as", "in memory"});
  for (const HeldComponent& c : it.components) {
    components.add(
        {c.name, std::to_string(c.num_files), format_bytes(static_cast<double>(c.file_bytes)),
         format_count(static_cast<double>(c.parameters)), c.held_as, format_bytes(c.bytes)});
  }
  Table stages;
  stages.add({"stage", "FLOP", "weights", "activations", "peak"});
  for (const StageCost& stage : it.stages) {
    stages.add({stage.name, format_count(stage.work), format_bytes(stage.weights),
                format_bytes(stage.activations), format_bytes(stage.weights + stage.activations)});
  }
  stages.add({"all", format_count(it.total_work())});
  return components.text() + "\n" + stages.text();
}

// One setting with its value and who set it.
struct Explained {
  std::string flag;
  std::string value;
  const char* origin;
};

struct Explainer {
  std::vector<Explained> settings;

  void group(const char*) {}
  template <class T>
  void field(const config::FieldInfo& info, config::Setting<T>& setting) {
    std::string value;
    for (const std::string& part : config::to_texts(*setting)) {
      value += (value.empty() ? "" : ",") + part;
    }
    settings.push_back({long_name(info), value, name_of(setting.origin)});
  }
};

std::vector<Explained> explain(config::Generate& settings) {
  Explainer explainer;
  config::describe(explainer, settings);
  return explainer.settings;
}

void print(const Estimate& it,
           config::Generate& settings,
           const Place& place,
           const Choice& choice,
           bool explains) {
  std::string text = shape_lines(it, settings, place) + "\n" + cost_tables(it) + "\n";
  const std::string host =
      choice.residency->host_bytes > 0
          ? str(" and ", format_bytes(choice.residency->host_bytes), " of host memory")
          : "";
  text += str("--offload ", config::name_of(choice.residency->mode), " needs about ",
              format_bytes(choice.residency->peak_bytes), host,
              !place.memory ? ""
              : choice.fits ? ": fits"
                            : ": does not fit",
              "\n");
  if (explains) {
    Table origins;
    for (const Explained& setting : explain(settings)) {
      origins.add({setting.flag, escape_control(setting.value), setting.origin});
    }
    text += "\n" + origins.text();
  }
  std::fputs(text.c_str(), stdout);
}

}  // namespace

int run_plan(const Program&, const std::vector<std::string>& words) {
  CLI::App app("Memory and work of a request, without loading weights", "plan");
  config::Generate settings;
  SettingFlags flags(app, settings);
  std::string config_file;
  bool json = false;
  bool explains = false;
  app.add_option("--config", config_file, "YAML run file; flags override it")
      ->type_name("FILE")
      ->group("Run");
  app.add_flag("--json", json, "one JSON document")->group("Run");
  app.add_flag("--explain", explains, "also every setting's value and who set it")->group("Run");
  const Arguments arguments = prepare(words);
  if (!parse(app, arguments.words)) {
    return 0;
  }
  flags.apply();
  std::vector<std::string> notes = arguments.notes;
  for (const std::string& note : read_sources(settings, config_file, arguments.overrides)) {
    notes.push_back(note);
  }
  const layout::ModelFolder model = open_model(settings);
  for (const std::string& note : resolve_request(settings, model)) {
    notes.push_back(note);
  }
  for (const std::string& note : notes) {
    std::fputs(("note: " + escape_control(note) + "\n").c_str(), stderr);
  }
  const Place place = place_of(*settings.device);
  const Estimate it = estimate(settings, model, place.is_gpu);
  const Choice choice = choose(it, *settings.offload, place);
  if (json) {
    Json document = to_json(it, place, choice);
    if (explains) {
      for (const Explained& setting : explain(settings)) {
        document["settings"][setting.flag] = {{"value", setting.value}, {"origin", setting.origin}};
      }
    }
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
  } else {
    print(it, settings, place, choice, explains);
  }
  if (!choice.fits) {
    throw IoError(Code::kDoesNotFit,
                  str("this needs about ", format_bytes(choice.residency->peak_bytes),
                      " with --offload ", config::name_of(choice.residency->mode), ", ",
                      format_bytes(place.memory.value_or(place.host_memory)),
                      " are available. Try fewer frames, a smaller size or --vae-tiling"));
  }
  return 0;
}

}  // namespace fastwan::cli
