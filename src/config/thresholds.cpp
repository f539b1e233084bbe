#include "config/thresholds.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"
#include "config/yaml_reader.h"

namespace fastwan::config {
namespace {

constexpr int64_t kMaxBytes = 1 << 20;
constexpr std::array<std::pair<const char*, Comparison>, 3> kComparisons = {
    {{"at_least", Comparison::kAtLeast},
     {"at_most", Comparison::kAtMost},
     {"above", Comparison::kAbove}}};

// Q6 before Q6a before Q10: by number, then by letters.
bool is_before(const std::string& a, const std::string& b) {
  const auto number = [](const std::string& id) {
    const std::size_t first = id.find_first_of("0123456789");
    const std::size_t last = id.find_first_not_of("0123456789", first);
    return first == std::string::npos ? -1 : parse_int(id.substr(first, last - first)).value_or(-1);
  };
  return std::pair(number(a), a) < std::pair(number(b), b);
}

class Reader {
 public:
  Reader(std::map<std::string, YamlValue> values, std::string origin)
      : values_(std::move(values)), origin_(std::move(origin)) {}

  std::vector<Gate> read() {
    std::map<std::string, Gate> gates;
    for (const auto& [key, value] : values_) {
      const std::vector<std::string> path = split(key, '.');
      if (path.size() < 3 || path[0] != "gates") {
        throw_unknown(key, value);
      }
      Gate& gate = gates[path[1]];
      gate.id = path[1];
      read_value(gate, path, key, value);
    }
    std::vector<Gate> ordered;
    for (auto& [id, gate] : gates) {
      check(gate, gates);
      ordered.push_back(gate);
    }
    std::sort(ordered.begin(), ordered.end(),
              [](const Gate& a, const Gate& b) { return is_before(a.id, b.id); });
    return ordered;
  }

 private:
  std::string where(const std::string& key, const YamlValue& value) const {
    return str(origin_, ":", value.line, ":", value.column, ": ", key);
  }

  [[noreturn]] void throw_unknown(const std::string& key, const YamlValue& value) const {
    throw InvalidInput(Code::kUnknownKey,
                       where(escape_control(key), value) + " is not part of a gate");
  }

  void read_value(Gate& gate,
                  const std::vector<std::string>& path,
                  const std::string& key,
                  const YamlValue& value) {
    const std::string at = where(key, value);
    if (path[2] == "conditions" && path.size() >= 5) {
      read_condition(condition_of(gate, path[3]), path, key, value);
    } else if (path.size() != 3) {
      throw_unknown(key, value);
    } else if (path[2] == "quantity") {
      assign(gate.quantity, value.texts, {}, at);
    } else if (path[2] == "samples") {
      assign(gate.samples, value.texts, {1, 1e9}, at);
    } else if (path[2] == "on_failure") {
      assign(gate.on_failure, value.texts, {}, at);
    } else if (path[2] == "read_if") {
      assign(gate.read_if, value.texts, {}, at);
    } else if (path[2] == "kind") {
      std::string kind;
      assign(kind, value.texts, {}, at);
      if (kind != "fail" && kind != "report") {
        throw_bad_value(at, "fail or report", kind);
      }
      gate.is_fatal = kind == "fail";
    } else {
      throw_unknown(key, value);
    }
  }

  static Condition& condition_of(Gate& gate, const std::string& name) {
    const auto found = std::find_if(gate.conditions.begin(), gate.conditions.end(),
                                    [&name](const Condition& c) { return c.name == name; });
    if (found != gate.conditions.end()) {
      return *found;
    }
    gate.conditions.push_back({.name = name});
    return gate.conditions.back();
  }

  // path: gates, id, conditions, name, then figure | at_least | at_least figure|times|plus
  void read_condition(Condition& condition,
                      const std::vector<std::string>& path,
                      const std::string& key,
                      const YamlValue& value) {
    const std::string at = where(key, value);
    if (path.size() == 5 && path[4] == "figure") {
      assign(condition.figure, value.texts, {}, at);
      return;
    }
    const auto* comparison =
        std::find_if(kComparisons.begin(), kComparisons.end(),
                     [&path](const auto& entry) { return path[4] == entry.first; });
    if (comparison == kComparisons.end() || path.size() > 6) {
      throw_unknown(key, value);
    }
    const auto [known, is_new] = compared_.try_emplace(path[1] + "." + path[3], comparison->first);
    if (!is_new && known->second != path[4]) {
      throw InvalidInput(Code::kBadConfig, str(at, ": the condition has ", known->second,
                                               " already; another one is a condition of its own"));
    }
    condition.comparison = comparison->second;
    if (path.size() == 5 || path[5] == "plus") {
      assign(condition.plus, value.texts, {}, at);
    } else if (path[5] == "figure") {
      assign(condition.reference, value.texts, {}, at);
    } else if (path[5] == "times") {
      assign(condition.times, value.texts, {}, at);
    } else {
      throw_unknown(key, value);
    }
  }

  void check(const Gate& gate, const std::map<std::string, Gate>& gates) const {
    const auto require = [this, &gate](bool holds, const std::string& what) {
      if (!holds) {
        throw InvalidInput(Code::kBadConfig,
                           str(origin_, ": gate ", escape_control(gate.id), " ", what));
      }
    };
    require(!gate.quantity.empty(), "has no quantity");
    require(gate.samples > 0, "has no samples");
    require(!gate.conditions.empty(), "has no conditions");
    require(gate.read_if.empty() || gates.contains(gate.read_if),
            "is read after a gate that is not here");
    for (const Condition& condition : gate.conditions) {
      require(!condition.figure.empty(), "has a condition without a figure");
      require(compared_.contains(gate.id + "." + condition.name),
              "has a condition without at_least, at_most or above");
      require(!condition.reference.empty() || condition.times == 1,
              "multiplies by `times` what is no figure");
    }
    const Gate* before = &gate;
    for (std::size_t i = 0; i < gates.size() && !before->read_if.empty(); ++i) {
      const auto next = gates.find(before->read_if);
      if (next == gates.end()) {
        return;  // that one's own fault
      }
      before = &next->second;
    }
    require(before->read_if.empty(), "is read after itself");
  }

  std::map<std::string, YamlValue> values_;
  std::string origin_;
  std::map<std::string, std::string> compared_;  // "gate.condition" -> at_least, ...
};

ConditionResult judge(const Condition& condition, const std::map<std::string, double>& figures) {
  const auto figure = [&figures](const std::string& name) -> std::optional<double> {
    const auto found = figures.find(name);
    return found == figures.end() ? std::nullopt : std::optional(found->second);
  };
  ConditionResult result{.condition = &condition, .value = figure(condition.figure)};
  const std::optional<double> other =
      condition.reference.empty() ? std::optional(0.0) : figure(condition.reference);
  if (other) {
    result.bound = condition.times * *other + condition.plus;
  }
  if (result.value && result.bound) {
    const double value = *result.value;
    const double bound = *result.bound;
    result.holds = condition.comparison == Comparison::kAtLeast  ? value >= bound
                   : condition.comparison == Comparison::kAtMost ? value <= bound
                                                                 : value > bound;
  }
  return result;
}

}  // namespace

std::vector<Gate> read_thresholds(const Path& file) {
  const std::string origin = file.string();
  return Reader(read_yaml(read_file(file, kMaxBytes), origin), origin).read();
}

std::vector<GateResult> judge(const std::vector<Gate>& gates,
                              const std::map<std::string, double>& figures) {
  std::vector<GateResult> results;
  for (const Gate& gate : gates) {
    GateResult result{.gate = &gate};
    bool is_measured = true;
    bool holds = true;
    for (const Condition& condition : gate.conditions) {
      result.conditions.push_back(judge(condition, figures));
      const ConditionResult& last = result.conditions.back();
      is_measured = is_measured && last.value && last.bound;
      holds = holds && last.holds;
    }
    result.verdict = !is_measured ? Verdict::kNotRun : holds ? Verdict::kPass : Verdict::kFail;
    results.push_back(std::move(result));
  }
  const auto is_unread = [&results](const GateResult& result) {
    const std::string& before = result.gate->read_if;
    return !before.empty() && result.verdict != Verdict::kNotRead &&
           std::none_of(results.begin(), results.end(), [&before](const GateResult& r) {
             return r.gate->id == before && r.verdict == Verdict::kPass;
           });
  };
  // One at a time: a gate that is not read may be what another is read after, in any order.
  for (auto unread = results.begin();;) {
    unread = std::find_if(results.begin(), results.end(), is_unread);
    if (unread == results.end()) {
      return results;
    }
    unread->verdict = Verdict::kNotRead;
  }
}

}  // namespace fastwan::config
