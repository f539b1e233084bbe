// Gates of an experiment: which figures must reach what, written down before the run.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"

namespace fastwan::config {

enum class Comparison { kAtLeast, kAtMost, kAbove };

// figure >= bound, figure <= bound or figure > bound;  bound = times x other + plus, other = 1 with
// no reference.
struct Condition {
  std::string name, figure;
  Comparison comparison = Comparison::kAtLeast;
  std::string reference;  // another figure; empty: `plus` is the bound
  double times = 1, plus = 0;
};

struct Gate {
  std::string id, quantity;
  int64_t samples = 0;
  bool is_fatal = true;  // kind fail; kind report is told and goes on
  std::string read_if;   // the gate that must have passed; empty: always read
  std::string on_failure;
  std::vector<Condition> conditions;
};

// In the order Q0, Q1, ..., Q6, Q6a, Q7. InvalidInput bad_config, unknown_key, bad_value.
std::vector<Gate> read_thresholds(const Path& file);

enum class Verdict { kPass, kFail, kNotRun, kNotRead };

struct ConditionResult {
  const Condition* condition = nullptr;
  std::optional<double> value, bound;  // absent: that figure was not measured
  bool holds = false;
};
struct GateResult {
  const Gate* gate = nullptr;
  Verdict verdict = Verdict::kNotRun;  // a figure is missing; kNotRead: read_if did not pass
  std::vector<ConditionResult> conditions;
};
// `gates` must outlive the results. A figure that is not a number fails its condition.
std::vector<GateResult> judge(const std::vector<Gate>& gates,
                              const std::map<std::string, double>& figures);

}  // namespace fastwan::config
