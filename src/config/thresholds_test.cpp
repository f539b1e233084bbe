#include "config/thresholds.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::config {
namespace {

std::vector<Gate> shipped() {
  return read_thresholds(Path(FASTWAN_SOURCE_DIR) / "recipes/tiny-shapes/thresholds.yaml");
}

std::vector<Gate> read_text(const std::string& yaml) {
  const TempFolder folder;
  const Path file = folder.where() / "gates.yaml";
  write_durably(file, yaml);
  return read_thresholds(file);
}

const Gate& gate(const std::vector<Gate>& gates, const std::string& id) {
  return *std::find_if(gates.begin(), gates.end(), [&id](const Gate& g) { return g.id == id; });
}

constexpr const char* kTwo = R"(
gates:
  Q10:
    quantity: relative
    samples: 2
    kind: report
    read_if: Q2
    conditions:
      a: {figure: x, at_most: {figure: y, times: 2, plus: -1}}
  Q2:
    quantity: plain
    samples: 1
    conditions:
      a: {figure: x, at_least: 3}
      b: {figure: x, above: {figure: z}}
)";

Verdict verdict(const std::vector<GateResult>& results, const std::string& id) {
  for (const GateResult& result : results) {
    if (result.gate->id == id) {
      return result.verdict;
    }
  }
  ADD_FAILURE() << id;
  return Verdict::kNotRun;
}

TEST(Thresholds, TheShippedGatesAreAllHereInOrder) {
  std::vector<std::string> ids;
  for (const Gate& g : shipped()) {
    ids.push_back(g.id);
  }
  EXPECT_EQ(ids, (std::vector<std::string>{"Q0", "Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "Q6a", "Q7",
                                           "Q8", "Q9", "Q10", "Q11", "Q12", "Q13", "Q14", "Q15"}));
}

// The registered numbers, said a second time so that an edit of the file is an edit of two places.
TEST(Thresholds, TheRegisteredNumbers) {
  const std::vector<Gate> gates = shipped();
  struct Number {
    const char* id;
    std::size_t condition;
    Comparison comparison;
    double times, plus;
  };
  const Number numbers[] = {
      {"Q0", 0, Comparison::kAtLeast, 1, 0.99},   {"Q1", 0, Comparison::kAtLeast, 1, 0.99},
      {"Q1", 1, Comparison::kAtLeast, 1, 30},     {"Q2", 0, Comparison::kAtLeast, 1, 0.999},
      {"Q3", 0, Comparison::kAtLeast, 1, 0.98},   {"Q4", 0, Comparison::kAtLeast, 1, 0.90},
      {"Q5", 0, Comparison::kAtMost, 1, -0.20},   {"Q5", 1, Comparison::kAtMost, 1, -0.20},
      {"Q7", 0, Comparison::kAtMost, 1.5, 0},     {"Q8", 0, Comparison::kAtLeast, 0.8, 0},
      {"Q9", 0, Comparison::kAtLeast, 0.8, 0},    {"Q10", 0, Comparison::kAtLeast, 1, -0.02},
      {"Q11", 0, Comparison::kAtLeast, 1, -0.03}, {"Q12", 0, Comparison::kAtLeast, 1, -0.03},
      {"Q13", 0, Comparison::kAtMost, 1, 0},      {"Q15", 0, Comparison::kAtMost, 1, 5}};
  for (const Number& number : numbers) {
    const Condition& condition = gate(gates, number.id).conditions.at(number.condition);
    EXPECT_EQ(condition.comparison, number.comparison) << number.id;
    EXPECT_EQ(condition.times, number.times) << number.id;
    EXPECT_EQ(condition.plus, number.plus) << number.id;
  }
  EXPECT_EQ(gate(gates, "Q6").conditions.size(), 5U);
  EXPECT_EQ(gate(gates, "Q6a").conditions.size(), 4U);
  EXPECT_EQ(gate(gates, "Q7").read_if, "Q6");
  EXPECT_EQ(gate(gates, "Q9").read_if, "Q6");
  EXPECT_FALSE(gate(gates, "Q5").is_fatal);
  EXPECT_TRUE(gate(gates, "Q6").is_fatal);
}

TEST(Thresholds, AGatePassesWhenAllItsConditionsHold) {
  const std::vector<Gate> gates = read_text(kTwo);
  ASSERT_EQ(gates.front().id, "Q2") << "by number, not by letters";
  const auto judged = [&gates](double x, double y, double z) {
    return judge(gates, {{"x", x}, {"y", y}, {"z", z}});
  };
  EXPECT_EQ(verdict(judged(3, 2, 2), "Q2"), Verdict::kPass) << "at least";
  EXPECT_EQ(verdict(judged(2.999, 2, 2), "Q2"), Verdict::kFail);
  EXPECT_EQ(verdict(judged(3, 2, 3), "Q2"), Verdict::kFail) << "above is not equal";
  EXPECT_EQ(verdict(judged(3, 2, 2), "Q10"), Verdict::kPass) << "3 <= 2 x 2 - 1";
  EXPECT_EQ(verdict(judged(3.001, 2, 2), "Q10"), Verdict::kFail);
}

TEST(Thresholds, WhatIsMissingIsNotRunAndWhatDependsIsNotRead) {
  const std::vector<Gate> gates = read_text(kTwo);
  const auto without_z = judge(gates, {{"x", 3}, {"y", 9}});
  EXPECT_EQ(verdict(without_z, "Q2"), Verdict::kNotRun);
  EXPECT_EQ(verdict(without_z, "Q10"), Verdict::kNotRead);
  EXPECT_FALSE(without_z[0].conditions[1].bound.has_value());
  const auto nan = judge(gates, {{"x", std::nan("")}, {"y", 9}, {"z", 0}});
  EXPECT_EQ(verdict(nan, "Q2"), Verdict::kFail);
}

TEST(Thresholds, WhatIsReadAfterAGateThatIsNotReadIsNotReadInAnyOrder) {
  const auto chain = [](const std::string& first, const std::string& second,
                        const std::string& third) {
    const auto gate = [](const std::string& id, const char* read_if, const char* bound) {
      return "  " + id + ": {quantity: a, samples: 1, " + read_if +
             "conditions: {c: {figure: x, at_least: " + bound + "}}}\n";
    };
    const std::vector<Gate> gates =
        read_text("gates:\n" + gate(first, "", "2") +
                  gate(second, ("read_if: " + first + ", ").c_str(), "0") +
                  gate(third, ("read_if: " + second + ", ").c_str(), "0"));
    const auto results = judge(gates, {{"x", 1}});
    return std::vector{verdict(results, first), verdict(results, second), verdict(results, third)};
  };
  const std::vector<Verdict> wanted = {Verdict::kFail, Verdict::kNotRead, Verdict::kNotRead};
  EXPECT_EQ(chain("Q0", "Q1", "Q2"), wanted);
  EXPECT_EQ(chain("Q2", "Q1", "Q0"), wanted);
}

TEST(Thresholds, MistakesAreRefused) {
  const std::string good = kTwo;
  const auto with = [&good](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  EXPECT_THROW(read_text(with("at_least", "atleast")), InvalidInput);
  EXPECT_THROW(read_text(with("kind: report", "kind: maybe")), InvalidInput);
  EXPECT_THROW(read_text(with("read_if: Q2", "read_if: Q3")), InvalidInput);
  EXPECT_THROW(read_text(with("quantity: plain", "amount: plain")), InvalidInput);
  EXPECT_THROW(read_text(with("times: 2", "times: two")), InvalidInput);
  EXPECT_THROW(read_text("gates: {Q1: {quantity: a, samples: 1}}\n"), InvalidInput);
  const auto refused = [](const std::string& yaml, const std::string& words) {
    try {
      read_text(yaml);
      ADD_FAILURE() << "accepted; wanted an error with: " << words;
    } catch (const InvalidInput& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  refused(with("b: {figure: x, above: {figure: z}}", "b: {figure: x}"), "without at_least");
  refused(with("at_least: 3", "at_least: 3, at_most: 4"), "has at_least already");
  refused(with("at_least: 3", "at_least: {times: 3}"), "no figure");
  refused(with("quantity: plain", "quantity: plain\n    read_if: Q10"), "after itself");
}

}  // namespace
}  // namespace fastwan::config
