#include "eval/experiment/experiment_report.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/files.h"

namespace fastwan::eval {
namespace {

Json share(double value) {
  return {{"value", value}, {"low", value - 0.01}, {"high", value + 0.01}};
}

// As rows were kept before they said where they were made and how colours vary.
Json old_row(const std::string& name, int64_t clips, double all_right) {
  const Json set = {{"clips", clips},
                    {"found", clips},
                    {"attributes", {{"colour", share(all_right)}}},
                    {"all_correct", share(all_right)},
                    {"steadiness",
                     {{"saturation", 0.85},
                      {"flicker", 0.01},
                      {"fragment_share", 0},
                      {"centroid_residual_px", 0.1}}}};
  return {{"name", name},
          {"title", name},
          {"status", "done"},
          {"evaluations", 3},
          {"seen", set},
          {"held_out", set},
          {"either", {{"colour", share(all_right)}}},
          {"distances",
           {{"frechet", share(0.5)},
            {"kid", share(0.1)},
            {"precision", 0.9},
            {"recall", 0.8},
            {"coverage", 0.7}}},
          {"repeated",
           {{"clips", 40},
            {"position_spread", 1.0},
            {"starts", {{"p", 0.5}}},
            {"rotations", {{"p", 0.5}}}}}};
}

Json document_of(const std::vector<Json>& rows) {
  return {{"rows", rows}, {"gates", Json::array()}};
}

config::Gate gate(const std::string& id,
                  int64_t samples,
                  const std::string& figure,
                  double at_least,
                  const std::string& read_if = "") {
  return {.id = id,
          .quantity = "something",
          .samples = samples,
          .read_if = read_if,
          .on_failure = "",
          .conditions = {{.name = "c", .figure = figure, .reference = "", .plus = at_least}}};
}

std::vector<std::string> verdicts(const Json& gates) {
  std::vector<std::string> out;
  for (const Json& one : gates) {
    out.push_back(one["verdict"]);
  }
  return out;
}

TEST(Verdicts, NeedTheClipsThatTheGateWasRegisteredWith) {
  const Json document = document_of({old_row("student", 100, 0.9)});
  const auto figures = figures_of(document, {{"seconds", 4}});
  const std::vector<config::Gate> gates = {gate("Q0", 101, "student.seen.all_right", 0.5),
                                           gate("Q1", 100, "student.seen.all_right", 0.5),
                                           gate("Q2", 200, "student.coverage", 0.8),
                                           gate("Q3", 201, "student.coverage", 0.8),
                                           gate("Q4", 41, "student.position_spread", 0.8),
                                           gate("Q5", 1000, "seconds", 5),
                                           gate("Q6", 101, "student.held_out.colour", 0.5),
                                           gate("Q7", 1, "student.frechet", 0.1, "Q0"),
                                           gate("Q8", 1, "student.frechet", 0.1, "Q1"),
                                           gate("Q9", 9999, "teacher.frechet", 0.1)};
  const Json judged = verdicts_of(gates, figures, samples_of(document));
  EXPECT_EQ(verdicts(judged),
            (std::vector<std::string>{"too few", "pass", "fail", "too few", "too few", "fail",
                                      "too few", "not read", "pass", "not run"}));
  EXPECT_EQ(judged[0]["samples"], 100);
  EXPECT_EQ(judged[0]["wanted_samples"], 101);
  EXPECT_EQ(judged[2]["samples"], 200);  // seen and held-out clips
  EXPECT_TRUE(judged[5]["samples"].is_null());
}

TEST(Verdicts, AreNotReadAfterOneWithTooFewAndAfterThatInTurn) {
  const Json document = document_of({old_row("student", 100, 0.9)});
  const std::vector<config::Gate> gates = {gate("Q0", 1, "student.seen.all_right", 0.5, "Q1"),
                                           gate("Q1", 1, "student.seen.all_right", 0.5, "Q2"),
                                           gate("Q2", 101, "student.seen.all_right", 0.5)};
  const Json judged =
      verdicts_of(gates, figures_of(document, Json::object()), samples_of(document));
  EXPECT_EQ(verdicts(judged), (std::vector<std::string>{"not read", "not read", "too few"}));
}

TEST(Verdicts, CountTheFiguresThatGatesCompareWithToo) {
  const Json document = document_of({old_row("student", 100, 0.9), old_row("teacher", 20, 0.9)});
  std::vector<config::Gate> gates = {gate("Q0", 100, "student.seen.all_right", 0)};
  gates[0].conditions[0].reference = "teacher.seen.all_right";
  const Json judged =
      verdicts_of(gates, figures_of(document, Json::object()), samples_of(document));
  EXPECT_EQ(judged[0]["verdict"], "too few");
  EXPECT_EQ(judged[0]["samples"], 20);
}

TEST(Verdicts, SayWhatABoundIsMadeOf) {
  std::vector<config::Gate> gates = {gate("Q0", 1, "a", 0.5), gate("Q1", 1, "a", -0.05),
                                     gate("Q2", 1, "a", 0)};
  gates[1].conditions[0].reference = "b";
  gates[2].conditions[0].reference = "b";
  gates[2].conditions[0].times = 1.5;
  const Json judged = verdicts_of(gates, {}, {});
  EXPECT_EQ(judged[0]["conditions"][0]["bound_of"], "");
  EXPECT_EQ(judged[1]["conditions"][0]["bound_of"], "b - 0.05");
  EXPECT_EQ(judged[2]["conditions"][0]["bound_of"], "1.5 x b");
}

class Page : public ::testing::Test {
 protected:
  std::string of(const std::vector<Json>& rows) {
    evaluation_.output_dir = temp_.where().string();
    write_experiment_report(evaluation_, document_of(rows));
    return read_file(temp_.where() / "report.html");
  }

  TempFolder temp_;
  config::Evaluation evaluation_;
};

TEST_F(Page, ShowsRowsOfBeforeWithEmptyCells) {
  Json row = old_row("newer", 100, 0.9);
  row["repeated"]["angles"] = {{"p", 0.0625}};
  row["device"] = "cuda:0, some <GPU>";
  row["seen"]["steadiness"]["area_variation"] = 0.125;
  row["seen"]["steadiness"]["colour_variation"] = 0.375;
  row["seen"]["steadiness"]["first_frame_hue_error"] = 0.25;
  const std::string page = of({old_row("older", 100, 0.9), row});
  EXPECT_NE(page.find("<td>cuda:0, some &lt;GPU&gt;</td>"), std::string::npos);
  EXPECT_NE(page.find("<td>0.5</td><td>0.0625</td><td>0.01</td>"), std::string::npos);
  EXPECT_NE(page.find("<td>0.5</td><td></td><td>0.01</td>"), std::string::npos);
  EXPECT_NE(page.find("<td>0</td><td>0.125</td><td>0.375</td><td>0.25</td>"), std::string::npos);
  EXPECT_NE(page.find("<td>0</td><td></td><td></td><td></td>"), std::string::npos);
}

int64_t count(const std::string& text, const std::string& part) {
  int64_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST_F(Page, PlotsEveryLossAndNamesRunsWithoutMetrics) {
  const auto run = [this](const std::string& name, const std::string& lines) {
    const Path folder = temp_.where() / name;
    std::filesystem::create_directory(folder);
    write_durably(folder / "metrics.jsonl", lines);
    evaluation_.runs[name] = folder.string();
  };
  run("distill",
      R"({"step": 1, "train_fake_score_loss": 0.5, "train_total_loss": 3}
{"step": 2, "train_fake_score_loss": 0.25, "train_generator_loss": 2, "train_total_loss": 3}
{"step": 3, broken}
{"step": 4, "train_fake_score_loss": 0.125, "train_generator_loss": 1, "train_total_loss": 3}
{"step": 5, "train_fake)");
  run("total", R"({"step": 1, "train_total_loss": 7}
)");
  run("silent", R"({"step": 1, "seconds": 7}
)");
  evaluation_.runs["<gone>"] = (temp_.where() / "nowhere").string();
  const std::string page = of({});
  EXPECT_EQ(count(page, "<polyline"), 3);
  for (const char* title : {"distill, train_fake_score_loss", "distill, train_generator_loss",
                            "total, train_total_loss"}) {
    EXPECT_EQ(count(page, title), 1) << title;
  }
  EXPECT_EQ(count(page, "distill, train_total_loss"), 0);
  EXPECT_EQ(count(page, "&lt;gone&gt;: no metrics, "), 1);
  EXPECT_EQ(count(page, "silent: no losses in "), 1);
}

}  // namespace
}  // namespace fastwan::eval
