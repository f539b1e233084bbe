#include "config/presets.h"

#include <cstdio>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/options.h"

namespace fastwan::cli {
namespace {

std::string row(const config::Preset& preset) {
  std::string name = preset.name;
  name.resize(24, ' ');
  std::string size =
      str(*preset.width, "x", *preset.height, " ", *preset.num_frames, "f @", *preset.fps);
  size.resize(20, ' ');
  const std::string guidance =
      *preset.guidance_scale > 1 ? ", guidance " + format_number(*preset.guidance_scale) : "";
  return str(name, size, *preset.steps, " steps", guidance, ", ", config::name_of(*preset.sampler),
             " shift ", format_number(*preset.flow_shift), "  ", preset.about, "\n");
}

}  // namespace

int run_presets(const Program&, const std::vector<std::string>& words) {
  CLI::App app("Defaults per model", "presets");
  bool json = false;
  std::vector<std::string> action;
  app.add_flag("--json", json, "one JSON document");
  app.add_option("action", action, "list (default), or show NAME")->expected(0, 2);
  if (!parse(app, words)) {
    return 0;
  }
  if (action.size() == 2 && action[0] == "show") {
    std::fputs((dump_json(to_json(config::preset_named(action[1]))) + "\n").c_str(), stdout);
    return 0;
  }
  if (!action.empty() && (action.size() > 1 || action[0] != "list")) {
    throw InvalidInput(
        Code::kUsage, str("presets knows `list` and `show NAME`, got ", escape_control(action[0])));
  }
  Json list = Json::array();
  for (const config::Preset& preset : config::all_presets()) {
    list.push_back(to_json(preset));
    if (!json) {
      std::fputs(row(preset).c_str(), stdout);
    }
  }
  if (json) {
    std::fputs((dump_json(list) + "\n").c_str(), stdout);
  }
  return 0;
}

}  // namespace fastwan::cli
