#include "config/yaml_reader.h"

#include <algorithm>
#include <set>
#include <sstream>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"
#include "config/fastvideo.h"

namespace fastwan::config {
namespace {

constexpr int64_t kMaxBytes = 1 << 20;
constexpr int kMaxDepth = 32;
constexpr int kMaxNodes = 10000;  // aliases expanded

[[noreturn]] void throw_yaml(const std::string& origin,
                             int line,
                             int column,
                             const std::string& what) {
  throw InvalidInput(Code::kBadConfig, str(origin, ":", line, ":", column, ": ", what));
}

// yaml-cpp recurses: depth is bounded before it sees the text.
void check_before_parsing(std::string_view text, const std::string& origin) {
  if (static_cast<int64_t>(text.size()) > kMaxBytes) {
    throw InvalidInput(Code::kBadConfig,
                       str(origin, ": at most ", kMaxBytes, " bytes are read, got ", text.size()));
  }
  if (!is_valid_utf8(text)) {
    throw InvalidInput(Code::kBadConfig, str(origin, ": not valid UTF-8"));
  }
  int line_number = 0;
  int flow_depth = 0;
  for (const std::string& line : split(text, '\n')) {
    ++line_number;
    // YAML 1.2 section 5.1 forbids them, and yaml-cpp 0.7 never returns from some texts with a NUL.
    const auto control = std::find_if(line.begin(), line.end(), [](char c) {
      return (c >= '\0' && c < ' ' && c != '\t' && c != '\r') || c == '\x7f';
    });
    if (control != line.end()) {
      throw_yaml(origin, line_number, static_cast<int>(control - line.begin()) + 1,
                 str("control byte ", escape_control(std::string(1, *control))));
    }
    const std::size_t indent = std::min(line.find_first_not_of(' '), line.size());
    if (indent < line.size() && line[indent] == '\t') {
      throw_yaml(origin, line_number, static_cast<int>(indent) + 1,
                 "a tab in the indentation; use spaces");
    }
    const auto deeper =
        std::count_if(line.begin(), line.end(), [](char c) { return c == '[' || c == '{'; });
    const auto shallower =
        std::count_if(line.begin(), line.end(), [](char c) { return c == ']' || c == '}'; });
    // "- - - x" nests a sequence for each dash.
    const auto dashes = std::count(line.begin(), line.end(), '-');
    flow_depth = std::max(0, flow_depth + static_cast<int>(deeper));
    if (flow_depth > kMaxDepth || indent > 2 * kMaxDepth ||
        (dashes > kMaxDepth && line.find("- - - -") != std::string::npos)) {
      throw_yaml(origin, line_number, 1, str("nested deeper than ", kMaxDepth, " levels"));
    }
    flow_depth = std::max(0, flow_depth - static_cast<int>(shallower));
  }
}

// Hears a document and keeps nothing.
class Silent : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&,
                const std::string&,
                YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&,
                       const std::string&,
                       YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&,
                  const std::string&,
                  YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// YAML::LoadAll of yaml-cpp 0.7 never ends where text follows a closed map: every further try gives
// one more empty document.
void require_one_document(const std::string& text, const std::string& origin) {
  std::istringstream in(text);
  YAML::Parser parser(in);
  Silent silent;
  if (parser.HandleNextDocument(silent) && parser.HandleNextDocument(silent)) {
    throw InvalidInput(Code::kBadConfig,
                       str(origin, ": one document, got another or text behind its end"));
  }
}

class Flattener {
 public:
  explicit Flattener(const std::string& origin) : origin_(origin) {}

  void visit(const YAML::Node& node, const std::string& key, int depth) {
    const YAML::Mark mark = node.Mark();
    if (depth > kMaxDepth || ++nodes_ > kMaxNodes) {
      throw_yaml(origin_, mark.line + 1, mark.column + 1, "too deep or too many expanded aliases");
    }
    if (!node.Tag().empty() && node.Tag() != "?" && node.Tag() != "!") {
      throw_yaml(origin_, mark.line + 1, mark.column + 1,
                 "tag " + escape_control(node.Tag()) + " is not allowed");
    }
    if (node.IsMap()) {
      visit_map(node, key, depth);
    } else if (node.IsSequence()) {
      YamlValue value{{}, mark.line + 1, mark.column + 1};
      for (const YAML::Node& item : node) {
        if (!item.IsScalar()) {
          throw_yaml(origin_, item.Mark().line + 1, item.Mark().column + 1,
                     key + " must be a list of plain values");
        }
        value.texts.push_back(item.Scalar());
      }
      out_.emplace(key, std::move(value));
    } else if (node.IsScalar()) {
      out_.emplace(key, YamlValue{{node.Scalar()}, mark.line + 1, mark.column + 1});
    }  // null: as if the key were absent
  }

  std::map<std::string, YamlValue> take() { return std::move(out_); }

 private:
  void visit_map(const YAML::Node& node, const std::string& key, int depth) {
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const YAML::Mark mark = entry.first.Mark();
      if (!entry.first.IsScalar()) {
        throw_yaml(origin_, mark.line + 1, mark.column + 1, "a key must be a plain word");
      }
      const std::string name = entry.first.Scalar();
      if (!seen.insert(name).second) {
        throw InvalidInput(
            Code::kDuplicateKey,
            str(origin_, ":", mark.line + 1, ":", mark.column + 1, ": ",
                escape_control(key.empty() ? name : key + "." + name), " occurs twice"));
      }
      visit(entry.second, key.empty() ? name : key + "." + name, depth + 1);
    }
  }

  std::string origin_;
  std::map<std::string, YamlValue> out_;
  int nodes_ = 0;
};

// Visits every field and takes what the map holds for its key.
struct FromMap {
  std::map<std::string, YamlValue>& values;
  const std::string& origin;
  std::set<std::string> used = {};
  std::vector<std::string> keys = {};

  void group(const char*) {}

  template <class T>
  void field(const FieldInfo& info, Setting<T>& setting) {
    keys.emplace_back(info.key);
    const auto found = values.find(info.key);
    if (found == values.end()) {
      return;
    }
    used.insert(info.key);
    const YamlValue& value = found->second;
    assign(setting, info, value.texts, Origin::kConfigFile,
           str(origin, ":", value.line, ":", value.column, ": ", info.key));
  }
};

struct FromOverride {
  const std::string& key;
  const std::string& value;
  bool used = false;
  std::vector<std::string> keys = {};

  void group(const char*) {}

  template <class T>
  void field(const FieldInfo& info, Setting<T>& setting) {
    keys.emplace_back(info.key);
    if (key == info.key) {
      assign(setting, info, {value}, Origin::kFlag, "--" + key);
      used = true;
    }
  }
};

[[noreturn]] void throw_unknown_key(const std::string& where,
                                    const std::string& key,
                                    const std::vector<std::string>& keys) {
  const std::optional<std::string> guess = nearest(key, keys);
  throw InvalidInput(Code::kUnknownKey, str(where, escape_control(key), " is not a setting here.",
                                            guess ? " Did you mean " + *guess + "?" : ""));
}

}  // namespace

std::map<std::string, YamlValue> read_yaml(std::string_view text, const std::string& origin) {
  check_before_parsing(text, origin);
  try {
    require_one_document(std::string(text), origin);
    const YAML::Node document = YAML::Load(std::string(text));
    Flattener flattener(origin);
    if (!document.IsNull()) {
      if (!document.IsMap()) {
        throw InvalidInput(Code::kBadConfig, str(origin, ": must be a map of settings"));
      }
      flattener.visit(document, "", 0);
    }
    return flattener.take();
  } catch (const YAML::Exception& error) {
    throw_yaml(origin, error.mark.line + 1, error.mark.column + 1, escape_control(error.msg));
  }
}

std::vector<std::string> read_run_file(const Path& file, Generate& into) {
  const std::string origin = file.string();
  std::map<std::string, YamlValue> values = read_yaml(read_file(file, kMaxBytes), origin);
  std::vector<std::string> warnings = translate_run_file(values, origin, into);
  FromMap visitor{values, origin};
  describe(visitor, into);
  for (const auto& [key, value] : values) {
    if (!visitor.used.contains(key)) {
      throw_unknown_key(str(origin, ":", value.line, ":", value.column, ": "), key, visitor.keys);
    }
  }
  return warnings;
}

void apply_override(const std::string& key, const std::string& value, Generate& into) {
  FromOverride visitor{key, value};
  describe(visitor, into);
  if (!visitor.used) {
    throw_unknown_key("--", key, visitor.keys);
  }
}

}  // namespace fastwan::config
