#include "config/presets.h"

#include <cstdio>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"

namespace fastwan::cli {
namespace {

std::vector<std::string> row(const config::Preset& preset) {
  const std::string guidance =
      *preset.guidance_scale > 1 ? "guidance " + format_number(*preset.guidance_scale) : "";
  return {preset.name,
          str(*preset.width, "x", *preset.height),
          str(*preset.num_frames, " frames at ", *preset.fps),
          str(*preset.steps, " steps"),
          str(config::name_of(*preset.sampler), " shift ", format_number(*preset.flow_shift)),
          guidance,
          preset.about};
}

}  // namespace

int run_presets(const Program&, const std::vector<std::string>& words) {
  CLI::App app("Defaults per model", "presets");
  constexpr int kWords = 100;  // more than fit, so that the message is ours
  bool json = false;
  std::vector<std::string> action;
  app.add_flag("--json", json, "one JSON document");
  app.add_option("action", action, "list (default), or show NAME")->expected(0, kWords);
  if (!parse(app, words)) {
    return 0;
  }
  if (action.size() == 2 && action[0] == "show") {
    std::fputs((dump_json(to_json(config::preset_named(action[1]))) + "\n").c_str(), stdout);
    return 0;
  }
  if (!action.empty() && action[0] == "show") {
    throw InvalidInput(Code::kUsage, "presets show wants one NAME; `presets list` has them");
  }
  if (!action.empty() && (action.size() > 1 || action[0] != "list")) {
    throw InvalidInput(
        Code::kUsage, str("presets knows `list` and `show NAME`, got ", escape_control(action[0])));
  }
  Json list = Json::array();
  Table table;
  for (const config::Preset& preset : config::all_presets()) {
    list.push_back(to_json(preset));
    table.add(row(preset));
  }
  std::fputs((json ? dump_json(list) + "\n" : table.text()).c_str(), stdout);
  return 0;
}

}  // namespace fastwan::cli
