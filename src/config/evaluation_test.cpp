#include "config/evaluation.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::config {
namespace {

Evaluation read_text(const std::string& yaml) {
  const TempFolder folder;
  const Path file = folder.where() / "evaluation.yaml";
  write_durably(file, yaml);
  return read_evaluation(file);
}

constexpr const char* kTwoRows = R"(
model: a
features: b
thresholds: c
output_dir: d
samples: 100
rows:
  real: {title: real clips, clips: rendered}
  late:
    title: a student
    model: e
    sampler: dmd
    dmd_denoising_steps: [900, 500]
    warp_denoising_step: true
    attention_backend: vsa
  early: {title: a teacher, model: f, steps: 7, guidance_scale: 3.5}
runs: {teacher: g}
)";

TEST(Evaluation, RowsComeInTheOrderOfTheFile) {
  const Evaluation e = read_text(kTwoRows);
  ASSERT_EQ(e.rows.size(), 3u);
  EXPECT_EQ(e.rows[0].clips, ClipsFrom::kRendered);
  EXPECT_EQ(e.rows[1].name, "late");
  EXPECT_EQ(e.rows[1].dmd_denoising_steps, (std::vector<int64_t>{900, 500}));
  EXPECT_TRUE(e.rows[1].warp_denoising_step);
  EXPECT_FALSE(e.rows[2].warp_denoising_step);
  EXPECT_EQ(e.rows[1].attention_backend, AttentionBackend::kVsa);
  EXPECT_EQ(e.rows[2].steps, 7);
  EXPECT_EQ(e.rows[2].guidance_scale, 3.5);
  EXPECT_EQ(e.runs.at("teacher"), "g");
  EXPECT_EQ(e.samples, 100);
}

TEST(Evaluation, FewerSamplesAreFewerOfEverything) {
  Evaluation e = read_text(kTwoRows);
  set_samples(e, 64);
  EXPECT_EQ(e.samples, 64);
  EXPECT_EQ(e.prompts, 8);
  EXPECT_EQ(e.samples_per_prompt, 8);
  EXPECT_THROW(set_samples(e, 7), InvalidInput);
}

TEST(Evaluation, MistakesAreRefused) {
  const std::string good = kTwoRows;
  const auto with = [&good](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  EXPECT_THROW(read_text(with("steps: 7", "stops: 7")), InvalidInput);
  EXPECT_THROW(read_text(with("clips: rendered", "clips: drawn")), InvalidInput);
  EXPECT_THROW(read_text(with("clips: rendered", "model: x, clips: rendered")), InvalidInput);
  EXPECT_THROW(read_text(with("    model: e\n", "")), InvalidInput);
  EXPECT_THROW(read_text(with("sampler: dmd", "sampler: auto")), InvalidInput);
  EXPECT_THROW(read_text(with("thresholds: c\n", "")), InvalidInput);
  EXPECT_THROW(read_text(with("samples: 100", "samples: 7")), InvalidInput);
  EXPECT_THROW(read_text(with("samples: 100", "samples: 1000001")), InvalidInput);
  EXPECT_EQ(read_text(with("samples: 100", "samples: 8")).samples, 8);
  for (const char* name : {"a/b:", "'a b':", "'':", "'é':"}) {  // it names files
    EXPECT_THROW(read_text(with("early:", name)), InvalidInput) << name;
  }
}

TEST(Evaluation, ShippedFilesHaveTheSameRows) {
  const Path recipes = Path(FASTWAN_SOURCE_DIR) / "recipes/tiny-shapes";
  const Evaluation full = read_evaluation(recipes / "evaluation.yaml");
  const Evaluation smoke = read_evaluation(recipes / "ci/evaluation.yaml");
  EXPECT_GE(full.rows.size(), 12u);
  const auto names_of = [](const Evaluation& e) {
    std::vector<std::string> names;
    for (const EvaluationRow& row : e.rows) {
      names.push_back(row.name);
    }
    return names;
  };
  EXPECT_EQ(names_of(full), names_of(smoke));
}

}  // namespace
}  // namespace fastwan::config
