#include "cli/train_arguments.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"
#include "config/fastvideo_train.h"

namespace fastwan::cli {
namespace {

constexpr std::array<std::string_view, 5> kRoots = {"models.", "method.", "training.", "callbacks.",
                                                    "pipeline."};

bool is_override(std::string_view name) {
  return std::any_of(kRoots.begin(), kRoots.end(),
                     [name](std::string_view root) { return name.starts_with(root); });
}

bool is_bool_word(std::string_view word) {
  const std::string lower = to_lower(word);
  return lower == "true" || lower == "false";
}

// One long option, and its value if that stands behind '='.
struct Word {
  std::string name;
  std::optional<std::string> value;
};

Word split_word(const std::string& word) {
  const std::size_t equals = word.find('=');
  if (equals == std::string::npos) {
    return {word.substr(2), std::nullopt};
  }
  return {word.substr(2, equals - 2), word.substr(equals + 1)};
}

class Reader {
 public:
  Reader(const std::vector<std::string>& argv, const std::vector<std::string>& own)
      : argv_(argv), own_(own) {}

  TrainArguments read() {
    for (; next_ < argv_.size(); ++next_) {
      const std::string& word = argv_[next_];
      if (word.starts_with("--") && word.size() > 2) {
        read_option(split_word(word));
      } else {
        out_.words.push_back(word);
      }
    }
    return std::move(out_);
  }

 private:
  std::string value_of(const Word& word) {
    if (word.value) {
      return *word.value;
    }
    if (next_ + 1 >= argv_.size()) {
      throw InvalidInput(Code::kUsage, str("--", escape_control(word.name), " needs a value"));
    }
    return argv_[++next_];
  }

  std::string switch_value(const Word& word) {
    if (word.value) {
      return *word.value;
    }
    const bool has_word = next_ + 1 < argv_.size() && is_bool_word(argv_[next_ + 1]);
    return has_word ? argv_[++next_] : "true";
  }

  void add_override(const std::string& key, const std::string& value) {
    if (!is_override(key)) {
      throw InvalidInput(Code::kUnknownKey,
                         str("--", escape_control(key),
                             ": a dotted key starts with models. method. training. callbacks. or "
                             "pipeline."));
    }
    if (std::any_of(out_.overrides.begin(), out_.overrides.end(),
                    [&key](const config::Override& other) { return other.first == key; })) {
      throw InvalidInput(Code::kConflict, str("--", escape_control(key), " is given twice"));
    }
    out_.overrides.emplace_back(key, value);
  }

  void read_option(Word word) {
    if (is_override(word.name) || word.name.find('.') != std::string::npos) {
      add_override(word.name, value_of(word));
      return;
    }
    std::replace(word.name.begin(), word.name.end(), '_', '-');
    if (word.name == "set") {
      const std::string text = value_of(word);
      const std::size_t equals = text.find('=');
      if (equals == std::string::npos) {
        throw InvalidInput(Code::kUsage, str("--set wants key=value, got ", escape_control(text)));
      }
      add_override(text.substr(0, equals), text.substr(equals + 1));
      return;
    }
    const std::string dashed = "--" + word.name;
    if (std::find(own_.begin(), own_.end(), dashed) != own_.end()) {
      out_.words.push_back(dashed + (word.value ? "=" + *word.value : ""));
      return;
    }
    const std::string flat = to_lower(word.name);
    if (const config::FlatFlag* flag = config::find_flat_flag(flat)) {
      out_.flat_flags.emplace_back(flat, is_switch(*flag) ? switch_value(word) : value_of(word));
      return;
    }
    if (const config::FlatFlag* flag = negated(flat); flag != nullptr && !word.value) {
      out_.flat_flags.emplace_back(flat.substr(kNo.size()), "false");
      return;
    }
    std::vector<std::string> names = config::flat_flag_names();
    names.insert(names.end(), own_.begin(), own_.end());
    const std::optional<std::string> guess = nearest(dashed, names);
    throw InvalidInput(Code::kUnknownOption,
                       str(escape_control(dashed), " is not an option of `fastwan train`.",
                           guess ? " Did you mean " + *guess + "?" : ""));
  }

  static constexpr std::string_view kNo = "no-";

  // The switch that --no-NAME turns off; null: it is none.
  static const config::FlatFlag* negated(const std::string& flat) {
    const config::FlatFlag* flag =
        flat.starts_with(kNo) ? config::find_flat_flag(flat.substr(kNo.size())) : nullptr;
    return flag != nullptr && is_switch(*flag) ? flag : nullptr;
  }

  const std::vector<std::string>& argv_;
  const std::vector<std::string>& own_;
  std::size_t next_ = 0;
  TrainArguments out_;
};

std::optional<config::MethodKind> method_named(const std::string& method) {
  return method.empty() ? std::nullopt
                        : std::optional(config::to_enum<config::MethodKind>(method, "--method"));
}

}  // namespace

TrainArguments split_train_arguments(const std::vector<std::string>& argv,
                                     const std::vector<std::string>& own) {
  return Reader(argv, own).read();
}

config::Recipe assemble_recipe(const Path& file,
                               const std::string& method,
                               const TrainArguments& arguments,
                               std::vector<std::string>& notes) {
  const std::optional<config::MethodKind> asked = method_named(method);
  const bool is_complete = file.empty();
  const std::optional<config::MethodKind> kind =
      is_complete ? asked : std::optional(config::method_in(file));
  if (asked && kind != asked) {
    throw InvalidInput(Code::kConflict, str("method ", name_of(*asked), " is asked for, but ",
                                            escape_control(file.string()),
                                            " is a recipe of method ", name_of(*kind)));
  }
  config::FlatFlags flat = translate_flat_flags(arguments.flat_flags, kind, is_complete);
  std::vector<config::Override> overrides = std::move(flat.overrides);
  overrides.insert(overrides.end(), arguments.overrides.begin(), arguments.overrides.end());
  std::vector<std::string> more;
  config::Recipe recipe = is_complete
                              ? config::parse_recipe("", "the command line", overrides, &more)
                              : config::read_recipe(file, overrides, &more);
  notes.insert(notes.end(), flat.notes.begin(), flat.notes.end());
  notes.insert(notes.end(), more.begin(), more.end());
  return recipe;
}

}  // namespace fastwan::cli
