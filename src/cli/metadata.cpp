#include "cli/metadata.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <thread>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/version.h"
#include "config/assign.h"
#include "io/safetensors.h"

namespace fastwan::cli {
namespace {

// Where results go and how a run behaves does not shape the result.
constexpr std::array<std::string_view, 11> kNotPartOfTheResult = {
    "--output",        "--output-path",  "--output-video-name",    "--overwrite",
    "--contact-sheet", "--save-latents", "--save-embeds",          "--save-frames",
    "--report",        "--prompt-file",  "--num-videos-per-prompt"};

bool shapes_result(const std::string& name) {
  return std::find(kNotPartOfTheResult.begin(), kNotPartOfTheResult.end(), name) ==
         kNotPartOfTheResult.end();
}

// Names that a command may hold: a foreign file may claim any.
struct FlagNames {
  std::set<std::string> names;

  void group(const char*) {}
  template <class T>
  void field(const config::FieldInfo& info, config::Setting<T>&) {
    names.insert(long_name(info));
  }
};

struct ToJson {
  Json& out;

  void group(const char*) {}

  template <class T>
  void field(const config::FieldInfo& info, config::Setting<T>& setting) {
    const std::string name = long_name(info);
    const bool is_chosen =
        setting.is_set || config::to_texts(setting.value) != config::to_texts(T{});
    if (!is_chosen || !shapes_result(name)) {
      return;
    }
    const std::vector<std::string> texts = config::to_texts(setting.value);
    if (info.is_repeatable) {
      out[name] = texts;
    } else {
      std::string joined;
      for (const std::string& text : texts) {
        joined += (joined.empty() ? "" : ",") + text;
      }
      out[name] = joined;
    }
  }
};

std::string shell_quoted(const std::string& text) {
  const bool is_plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_./,:=@%+").find(static_cast<char>(c)) != std::string_view::npos;
  });
  return is_plain ? text : "'" + replace_all(text, "'", "'\\''") + "'";
}

}  // namespace

std::string model_digest(const layout::ModelFolder& model) {
  Sha256 digest;
  const auto add = [&digest](const char* name, const Path& component) {
    digest.update(str(name, "\n", io::WeightFiles::open(component).digest(), "\n"));
  };
  add("transformer", model.transformer);
  if (model.transformer_2) {
    add("transformer_2", *model.transformer_2);
  }
  add("vae", model.vae);
  add("text_encoder", model.text_encoder);
  return digest.hex();
}

Json settings_document(const config::Generate& settings) {
  Json out = Json::object();
  config::Generate copy = settings;  // describe() takes what it may change
  ToJson visitor{out};
  config::describe(visitor, copy);
  return out;
}

Json request_metadata(const config::Generate& settings, const layout::ModelFolder& model) {
  const int64_t threads = *settings.threads > 0
                              ? *settings.threads
                              : static_cast<int64_t>(std::thread::hardware_concurrency());
  Json document = {
      {"program", str("fastwan ", kVersion)},     {"model", *settings.model_path},
      {"model_digest", model_digest(model)},      {"threads", threads},
      {"instruction_set", cpu_instruction_set()}, {"settings", settings_document(settings)}};
  document["settings"].erase("--prompt");
  document["settings"]["--threads"] = std::to_string(threads);
  return document;
}

std::string command_of(const Json& metadata) {
  std::string command = "fastwan generate";
  const auto add = [&command](const std::string& name, const Json& value) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (text == "true") {
      command += " " + name;
    } else if (text != "false") {
      // name=value, so that a value may start with a dash
      command += " " + name + (text.starts_with("-") ? "=" : " ") + shell_quoted(text);
    }
  };
  if (metadata.contains("prompt")) {
    add("--prompt", metadata.at("prompt"));
  }
  if (!metadata.contains("settings") || !metadata.at("settings").is_object()) {
    return command;
  }
  FlagNames known;
  config::Generate any;
  config::describe(known, any);
  for (const auto& [name, value] : metadata.at("settings").items()) {
    if (!known.names.contains(name) || !shapes_result(name)) {
      continue;
    }
    if (name == "--seed" && metadata.contains("seed")) {
      add(name, metadata.at("seed"));
    } else if (value.is_array()) {
      for (const Json& item : value) {
        add(name, item);
      }
    } else {
      add(name, value);
    }
  }
  return command;
}

}  // namespace fastwan::cli
