#include "training/validation_loss.h"

#include <cmath>
#include <map>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/rng.h"
#include "base/text.h"
#include "training/flow_matching.h"
#include "training/role.h"
#include "training/toy_method.h"

namespace fastwan::training {
namespace {

using testing::toy_source;

constexpr ValidationLossOptions kWide{.rows = 24, .text_rows = 4, .state = at::kDouble};

ValidationLossOptions with(int64_t rows, int64_t batch) {
  ValidationLossOptions options = kWide;
  options.rows = rows;
  options.batch = batch;
  return options;
}

MicroBatch as_it_is(const data::Batch& batch) {
  return {.latents = batch.latents,
          .text = batch.text,
          .slots = batch.slots,
          .captions = batch.captions};
}

// 0.3 x + t / 1000 - mean of the text: every argument counts.
at::Tensor toy_velocity(const at::Tensor& x, const at::Tensor& timestep, const at::Tensor& text) {
  return 0.3 * x + per_sample(timestep / 1000.0, x) - per_sample(text.flatten(1).mean(1), x);
}

TEST(ValidationLoss, IsPlainLoopsOverFixedNoiseAndLevels) {
  constexpr int64_t kRows = 4;
  const auto source = toy_source(kRows);
  std::vector<int64_t> rows;  // by slot
  ValidationLoss loss(source, with(kRows, 2), [&rows](const data::Batch& batch) {
    rows.insert(rows.end(), batch.rows.begin(), batch.rows.end());
    return as_it_is(batch);
  });
  ASSERT_EQ(std::set<int64_t>(rows.begin(), rows.end()).size(), kRows) << "each row once";

  double sum = 0;
  std::map<std::string, double> by_twelfth;
  for (int64_t j = 0; j < kRows; ++j) {
    const data::Example row = source->get(rows[static_cast<std::size_t>(j)]);
    const at::Tensor x0 = row.latents.flatten().contiguous();
    const at::Tensor text = row.text.flatten().contiguous();
    double caption = 0;
    for (int64_t i = 0; i < text.numel(); ++i) {
      caption += static_cast<double>(text.const_data_ptr<float>()[i]) /
                 16;  // four rows, one of them padding, of four numbers
    }
    std::vector<float> noise(static_cast<std::size_t>(x0.numel()));
    Philox(0, Stream::kValidation, 0, j).fill_normal(0, noise);
    const double sigma = (static_cast<double>(j) + 0.5) / kRows;
    double squares = 0;
    for (int64_t i = 0; i < x0.numel(); ++i) {
      const double clean = x0.const_data_ptr<float>()[i];
      const double eps = noise[static_cast<std::size_t>(i)];
      const double x = (1 - sigma) * clean + sigma * eps;
      squares += std::pow(0.3 * x + sigma - caption - (eps - clean), 2);
    }
    const double mean = squares / static_cast<double>(x0.numel());
    sum += mean;
    by_twelfth[str("validation_loss/t_", j < 3 ? "0" : "", 1 + 3 * j)] = mean;
  }
  by_twelfth["validation_loss"] = sum / kRows;

  const Metrics metrics = loss.of(toy_velocity, {});
  ASSERT_EQ(metrics.size(), by_twelfth.size());
  for (const auto& [name, wanted] : by_twelfth) {
    ASSERT_TRUE(metrics.contains(name)) << name;
    EXPECT_NEAR(metrics.at(name), wanted, 1e-6 * wanted) << name;  // of texts in fp32
  }
}

TEST(ValidationLoss, IsNothingForTheRightVelocityAndMovesWithTheWeights) {
  // Of rows that are all zero, x = sigma eps and v = eps.
  const auto source = std::make_shared<data::MemorySource>(std::vector<data::Example>(
      30, {.id = "zero",
           .caption = "",
           .latents = at::zeros_like(testing::toy_tensor(1, {2, 1, 2, 2})),
           .text = testing::toy_tensor(2, {3, 4})}));
  ValidationLoss loss(source, kWide, as_it_is);
  const auto scaled = [](double scale) {
    return [scale](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor&) {
      return scale * x / per_sample(timestep / 1000.0, x);
    };
  };
  EXPECT_LT(loss.of(scaled(1), {}).at("validation_loss"), 1e-24);
  // (s - 1)^2 times the mean of eps^2, which is 1 within four of its errors sqrt(2 / (24 * 8)).
  EXPECT_NEAR(loss.of(scaled(1.5), {}).at("validation_loss") / 0.25, 1, 0.41);
}

TEST(ValidationLoss, HasTwoRowsInEachTwelfthByDefault) {
  ValidationLoss loss(toy_source(100), kWide, as_it_is);
  EXPECT_EQ(loss.rows(), 24);
  std::multiset<int64_t> twelfths;
  const Metrics metrics = loss.of(
      [&](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor& text) {
        for (const double t : to_vector(timestep)) {
          twelfths.insert(static_cast<int64_t>(t * 12 / 1000));
        }
        return toy_velocity(x, timestep, text);
      },
      {});
  double sum = 0;
  for (int64_t i = 0; i < 12; ++i) {
    EXPECT_EQ(twelfths.count(i), 2) << i;
    sum += metrics.at(str("validation_loss/t_", i < 10 ? "0" : "", i));
  }
  EXPECT_NEAR(sum / 12, metrics.at("validation_loss"), 1e-12);
}

TEST(ValidationLoss, IsTheSameEachTimeAndInBatchesOfAnySize) {
  const auto source = toy_source(40);
  ValidationLoss single(source, with(24, 1), as_it_is);
  const Metrics wanted = single.of(toy_velocity, {});
  EXPECT_EQ(single.of(toy_velocity, {}), wanted) << "bit by bit";
  for (const int64_t batch : {5, 7, 24, 1000}) {
    int64_t widest = 0;
    ValidationLoss loss(source, with(24, batch), [&widest](const data::Batch& made) {
      widest = std::max(widest, made.latents.size(0));
      return as_it_is(made);
    });
    const Metrics metrics = loss.of(toy_velocity, {});
    ASSERT_EQ(metrics.size(), wanted.size());
    for (const auto& [name, value] : wanted) {
      EXPECT_NEAR(metrics.at(name), value, 1e-12) << name << ", batch " << batch;
    }
    EXPECT_LE(widest, batch);
    EXPECT_EQ(24 % widest, 0);
  }
  // Negative control: other rows, another loss.
  ValidationLoss fewer(source, with(23, 1), as_it_is);
  EXPECT_GT(
      std::abs(fewer.of(toy_velocity, {}).at("validation_loss") - wanted.at("validation_loss")),
      1e-6);
}

TEST(ValidationLoss, TakesASmallSourceWhole) {
  ValidationLoss loss(toy_source(3), with(24, 2), as_it_is);
  EXPECT_EQ(loss.rows(), 3);
  EXPECT_EQ(loss.of(toy_velocity, {}).size(), 4) << "the loss and three twelfths";
}

TEST(ValidationLoss, KeepsNoGradient) {
  ValidationLoss loss(toy_source(4), kWide, as_it_is);
  loss.of(
      [](const at::Tensor& x, const at::Tensor&, const at::Tensor&) {
        EXPECT_FALSE(c10::GradMode::is_enabled());
        return at::zeros_like(x);
      },
      {});
  EXPECT_TRUE(c10::GradMode::is_enabled());
}

TEST(ValidationLoss, RefusesRowsOfTextAloneBeforeTheFirstStep) {
  const auto source = std::make_shared<data::MemorySource>(std::vector<data::Example>(
      4, {.id = "a", .caption = "a", .latents = {}, .text = testing::toy_tensor(2, {3, 4})}));
  try {
    ValidationLoss loss(source, kWide, as_it_is);
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kBadDataset);
  }
}

TEST(ValidationLoss, StopsBetweenForwards) {
  ValidationLoss loss(toy_source(8), with(8, 2), as_it_is);
  std::stop_source stop;
  int64_t calls = 0;
  const auto velocity = [&](const at::Tensor& x, const at::Tensor& timestep,
                            const at::Tensor& text) {
    stop.request_stop();
    ++calls;
    return toy_velocity(x, timestep, text);
  };
  EXPECT_THROW(loss.of(velocity, {.stop = stop.get_token(), .on_progress = {}}), Stopped);
  EXPECT_EQ(calls, 1);
  // The next one begins at the first row again.
  ValidationLoss fresh(toy_source(8), with(8, 2), as_it_is);
  EXPECT_EQ(loss.of(toy_velocity, {}), fresh.of(toy_velocity, {}));
}

}  // namespace
}  // namespace fastwan::training
