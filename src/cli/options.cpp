#include "cli/options.h"

#include <algorithm>
#include <cstdio>
#include <type_traits>

#include "base/check.h"
#include "base/text.h"
#include "cli/aliases.h"
#include "config/assign.h"

namespace fastwan::cli {
namespace {

constexpr std::array<std::string_view, 2> kOverrideRoots = {"generator.", "request."};

bool is_override_name(std::string_view name) {
  return std::any_of(kOverrideRoots.begin(), kOverrideRoots.end(),
                     [name](std::string_view root) { return name.starts_with(root); });
}

void add_override(Arguments& out, const std::string& key, const std::string& value) {
  if (!is_override_name(key)) {
    throw InvalidInput(Code::kUnknownKey, str("--", escape_control(key),
                                              ": a dotted key starts with generator. or request."));
  }
  out.overrides.emplace_back(key, value);
}

// Long names of all options, for suggestions.
std::vector<std::string> known_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      names.push_back("--" + name);
    }
  }
  return names;
}

}  // namespace

namespace {

// One long option of argv, and where its value lies.
struct Word {
  std::string name;                  // without dashes
  std::optional<std::string> value;  // after '='
};

Word split_word(const std::string& word) {
  const std::size_t equals = word.find('=');
  if (equals == std::string::npos) {
    return {word.substr(2), std::nullopt};
  }
  return {word.substr(2, equals - 2), word.substr(equals + 1)};
}

// The value behind '=' or the next word of argv.
std::string take_value(const Word& word, const std::vector<std::string>& argv, std::size_t& i) {
  if (word.value) {
    return *word.value;
  }
  if (i + 1 >= argv.size()) {
    throw InvalidInput(Code::kUsage, str("--", escape_control(word.name), " needs a value"));
  }
  return argv[++i];
}

void add_set(Arguments& out, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) {
    throw InvalidInput(Code::kUsage, str("--set wants key=value, got ", escape_control(text)));
  }
  add_override(out, text.substr(0, equals), text.substr(equals + 1));
}

}  // namespace

Arguments prepare(const std::vector<std::string>& argv) {
  Arguments out;
  for (std::size_t i = 0; i < argv.size(); ++i) {
    if (argv[i] == "--") {
      out.words.insert(out.words.end(), argv.begin() + static_cast<std::ptrdiff_t>(i), argv.end());
      return out;
    }
    if (!argv[i].starts_with("--") && argv[i] != "-M") {
      out.words.push_back(argv[i]);
      continue;
    }
    Word word = argv[i] == "-M" ? Word{"mode", std::nullopt} : split_word(argv[i]);
    if (is_override_name(word.name)) {
      add_override(out, word.name, take_value(word, argv, i));
      continue;
    }
    std::replace(word.name.begin(), word.name.end(), '_', '-');
    if (word.name == "set") {
      add_set(out, take_value(word, argv, i));
    } else if (const Alias* alias = find_alias(word.name)) {
      const std::string value = alias->takes_value ? take_value(word, argv, i) : "";
      Translation ours = translate(*alias, value);
      out.words.insert(out.words.end(), ours.words.begin(), ours.words.end());
      if (!ours.note.empty()) {
        out.notes.push_back(std::move(ours.note));
      }
    } else {
      out.words.push_back("--" + word.name + (word.value ? "=" + *word.value : ""));
    }
  }
  return out;
}

struct SettingFlags::Flag {
  CLI::Option* option = nullptr;
  std::vector<std::string> texts;
  std::string name;  // "--height", for messages
};

struct SettingFlags::Adder {
  SettingFlags& self;
  std::string group_title = {};

  void group(const char* title) { group_title = title; }

  template <class T>
  void field(const config::FieldInfo& info, config::Setting<T>&) {
    auto flag = std::make_unique<Flag>();
    flag->name = long_name(info);
    if constexpr (std::is_same_v<T, bool>) {
      flag->option = self.app_.add_flag(std::string(info.flags) + ",!--no-" + flag->name.substr(2),
                                        flag->texts, info.help);
    } else {
      flag->option = self.app_.add_option(info.flags, flag->texts, describe_values<T>(info));
      flag->option->type_name(type_word<T>())->expected(1);
      flag->option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
      flag->option->allow_extra_args(false);
    }
    flag->option->group(group_title);
    self.flags_.push_back(std::move(flag));
  }

  template <class T>
  static const char* type_word() {
    if constexpr (std::is_same_v<T, int64_t>) {
      return "N";
    } else if constexpr (std::is_same_v<T, double>) {
      return "X";
    } else if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
      return "N,N,...";
    } else if constexpr (std::is_enum_v<T>) {
      return "WORD";
    } else {
      return "TEXT";
    }
  }

  template <class T>
  static std::string describe_values(const config::FieldInfo& info) {
    std::string help = info.help;
    if constexpr (std::is_enum_v<T>) {
      std::string words;
      for (const auto& entry : config::names(T{})) {
        if (config::name_of(entry.value) == entry.name) {  // canonical spellings only
          words += (words.empty() ? "" : "|") + std::string(entry.name);
        }
      }
      help += " (" + words + ")";
    }
    return help;
  }
};

struct SettingFlags::Applier {
  SettingFlags& self;
  std::size_t next = 0;

  void group(const char*) {}

  template <class T>
  void field(const config::FieldInfo& info, config::Setting<T>& setting) {
    const Flag& flag = *self.flags_[next++];
    if (flag.option->count() == 0) {
      return;
    }
    if (flag.option->count() > 1 && !info.is_repeatable) {
      throw InvalidInput(Code::kConflict,
                         str(flag.name, " is given ", flag.option->count(), " times"));
    }
    config::assign(setting, info, flag.option->results(), config::Origin::kFlag, flag.name);
  }
};

SettingFlags::SettingFlags(CLI::App& app, config::Generate& settings)
    : app_(app), settings_(settings) {
  Adder adder{*this};
  config::describe(adder, settings_);
}

SettingFlags::~SettingFlags() = default;

void SettingFlags::apply() {
  Applier applier{*this};
  config::describe(applier, settings_);
}

std::string long_name(const config::FieldInfo& info) {
  const std::vector<std::string> spelled = split(info.flags, ',');
  return *std::find_if(spelled.begin(), spelled.end(),
                       [](const std::string& name) { return name.starts_with("--"); });
}

namespace {

// `what` as CLI11 says it: "--height: 1 required TEXT missing", "--height: At Most 1 required but
// received 2".
[[noreturn]] void throw_mismatch(const std::string& what) {
  const std::string name = what.substr(0, what.find(':'));
  if (what.starts_with(name + ": At Most")) {
    throw InvalidInput(Code::kConflict,
                       str(name, " is given ", what.substr(what.rfind(' ') + 1), " times"));
  }
  throw InvalidInput(Code::kUsage, name + " needs a value");
}

}  // namespace

bool parse(CLI::App& app, const std::vector<std::string>& words) {
  app.allow_extras(true);
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    std::fputs(replace_all(replace_all(app.help(), "Usage: ", "Usage: fastwan "), "\n\n\n", "\n\n")
                   .c_str(),
               stdout);
    return false;
  } catch (const CLI::ArgumentMismatch& error) {
    throw_mismatch(error.what());
  } catch (const CLI::ParseError& error) {
    throw InvalidInput(Code::kUsage, escape_control(error.what()));
  }
  for (const std::string& word : app.remaining()) {
    if (word.starts_with("-") && word.size() > 1) {
      const std::string name = word.substr(0, word.find('='));
      const std::optional<std::string> guess = nearest(name, known_names(app));
      throw InvalidInput(Code::kUnknownOption,
                         str(escape_control(name), " is not an option of `fastwan ", app.get_name(),
                             "`.", guess ? " Did you mean " + *guess + "?" : ""));
    }
    throw InvalidInput(Code::kUsage, str("unexpected argument ", escape_control(word)));
  }
  return true;
}

}  // namespace fastwan::cli
