#include "training/optimizer.h"

#include <cmath>
#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "models/parameters.h"
#include "support/compare.h"
#include "support/golden.h"
#include "support/thread_comm.h"
#include "training/stochastic_round.h"

namespace fastwan::training {
namespace {

using testing::golden_tensor;
using testing::is_equal;
using testing::on_ranks;

constexpr int64_t kNumel = 37;
constexpr double kRate = 1e-5;

struct Fixture {
  explicit Fixture(at::ScalarType compute,
                   const distributed::Mesh& mesh = distributed::one_process())
      : module(std::make_shared<torch::nn::Module>()) {
    models::add_parameter(*module, "w", {kNumel}, compute)
        .copy_(golden_tensor("adamw", "w", {kNumel}, /*mean=*/0.0, /*std=*/0.005));
    units =
        std::make_unique<Units>(*module, one_unit(*module), UnitsOptions{.compute = compute}, mesh);
  }
  void set_gradient(const at::Tensor& whole) const {
    const at::Tensor mine = units->gradient(0);
    mine.copy_(whole.narrow(0, units->begin(0), mine.size(0)));
  }

  std::shared_ptr<torch::nn::Module> module;
  std::unique_ptr<Units> units;
};

// Some gradients are far smaller than others, some are zero.
at::Tensor gradient_of_step(int64_t step) {
  const at::Tensor scale = at::tensor({1.0, 1e-4, 0.0, 10.0}).repeat({10}).narrow(0, 0, kNumel);
  return golden_tensor("adamw", "g" + std::to_string(step), {kNumel}).to(at::kDouble) * scale;
}

// The formula, element by element in fp64.
struct Scalar {
  double p, m = 0, v = 0;
  void step(double g, int64_t n, const AdamWOptions& o) {
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    p -= kRate * o.weight_decay * p;
    const double m_hat = m / (1 - std::pow(o.beta1, static_cast<double>(n)));
    const double v_hat = v / (1 - std::pow(o.beta2, static_cast<double>(n)));
    p -= kRate * m_hat / (std::sqrt(v_hat) + o.eps);
  }
};

// Weights of a network's size, at most 0.03: 1,000 roundings of fp32 to half a step of 2^-29 are
// 1e-6 at most.
double worst_after_1000_steps(at::ScalarType compute, const AdamWOptions& options) {
  const Fixture fixture(compute);
  AdamW optimizer(*fixture.units, options);
  std::vector<Scalar> want;
  for (int64_t i = 0; i < kNumel; ++i) {
    want.push_back({.p = fixture.units->master(0)[i].item<double>()});
  }
  for (int64_t n = 1; n <= 1000; ++n) {
    const at::Tensor g = gradient_of_step(n).to(fixture.units->master_type());
    fixture.set_gradient(g);
    optimizer.step(kRate);
    for (int64_t i = 0; i < kNumel; ++i) {
      want[static_cast<std::size_t>(i)].step(g[i].item<double>(), n, options);
    }
  }
  EXPECT_EQ(optimizer.updates(), 1000);
  double worst = 0;
  for (int64_t i = 0; i < kNumel; ++i) {
    const double p = want[static_cast<std::size_t>(i)].p;
    worst = std::max(worst, std::abs(fixture.units->master(0)[i].item<double>() - p));
  }
  return worst;
}

TEST(AdamW, FollowsTheFormulaFor1000Steps) {
  EXPECT_LE(worst_after_1000_steps(at::kDouble, {}), 1e-12);
  EXPECT_LE(worst_after_1000_steps(at::kFloat, {}), 1e-6);
}

TEST(AdamW, WithoutAFirstMomentFollowsTheFormulaAndHoldsNone) {
  const AdamWOptions options{.beta1 = 0.0};
  EXPECT_LE(worst_after_1000_steps(at::kDouble, options), 1e-12);
  EXPECT_LE(worst_after_1000_steps(at::kFloat, options), 1e-6);
  const Fixture fixture(at::kFloat);
  const AdamW optimizer(*fixture.units, options);
  const std::vector<FlatPiece> pieces = optimizer.pieces();
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].kind, "v");
}

TEST(AdamW, OfBf16ComputeIsThatOfItsMasters) {
  EXPECT_LE(worst_after_1000_steps(at::kBFloat16, {}), 1e-6);
}

TEST(AdamW, StateContinuesInEveryBit) {
  for (const MomentType type : {MomentType::kMaster, MomentType::kBf16Stochastic}) {
    const AdamWOptions options{.m_type = type, .v_type = type, .seed = 5};
    const auto run = [&](Fixture& fixture, AdamW& optimizer, int64_t from, int64_t to) {
      for (int64_t n = from; n < to; ++n) {
        fixture.set_gradient(gradient_of_step(n).to(at::kFloat));
        optimizer.step(kRate);
      }
    };
    Fixture straight(at::kFloat);
    AdamW one(*straight.units, options);
    run(straight, one, 1, 21);

    Fixture first(at::kFloat), second(at::kFloat);
    AdamW before(*first.units, options), after(*second.units, options);
    run(first, before, 1, 11);
    second.units->pieces()[0].values.copy_(first.units->pieces()[0].values);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(after.pieces()[i].kind, i == 0 ? "m" : "v");
      after.pieces()[i].values.copy_(before.pieces()[i].values);
    }
    after.set_updates(before.updates());
    run(second, after, 11, 21);
    EXPECT_TRUE(is_equal(second.units->master(0), straight.units->master(0)));
    EXPECT_TRUE(is_equal(after.pieces()[1].values, one.pieces()[1].values));
  }
}

TEST(AdamW, PiecesOfManyRanksAreThoseOfOne) {
  const AdamWOptions options{
      .m_type = MomentType::kBf16Stochastic, .v_type = MomentType::kBf16Stochastic, .seed = 9};
  const auto three_steps = [&](const Fixture& fixture, AdamW& optimizer) {
    for (int64_t n = 1; n <= 3; ++n) {
      fixture.set_gradient(gradient_of_step(n).to(at::kFloat));
      optimizer.step(kRate);
    }
  };
  const Fixture alone(at::kFloat);
  AdamW whole(*alone.units, options);
  three_steps(alone, whole);
  on_ranks(1, 2, [&](int64_t, const distributed::Mesh& mesh) {
    const Fixture part(at::kFloat, mesh);
    AdamW optimizer(*part.units, options);
    three_steps(part, optimizer);
    for (std::size_t i = 0; i < 2; ++i) {
      const FlatPiece piece = optimizer.pieces()[i];
      EXPECT_TRUE(is_equal(piece.values,
                           whole.pieces()[i].values.narrow(0, piece.begin, piece.values.size(0))));
    }
  });
}

TEST(AdamW, Bf16MomentsTakeInIncrementsBelowTheirResolution) {
  // v grows from 0 to 1 in steps below bf16's resolution; rounding to nearest would stop early.
  const AdamWOptions options{
      .m_type = MomentType::kMaster, .v_type = MomentType::kBf16Stochastic, .seed = 3};
  Fixture fixture(at::kFloat);
  AdamW optimizer(*fixture.units, options);
  constexpr int64_t kSteps = 1000;
  for (int64_t n = 0; n < kSteps; ++n) {
    fixture.set_gradient(at::full({kNumel}, 1.0, at::kFloat));
    optimizer.step(0.0);
  }
  const double want = 1 - std::pow(options.beta2, static_cast<double>(kSteps));
  const at::Tensor v = optimizer.pieces()[1].values.to(at::kDouble);
  // A rounding's standard error is at most half a step of 2^-8; steps remember about 500 of them.
  const double standard_error = 0x1p-9 * std::sqrt(500.0) / std::sqrt(double{kNumel});
  EXPECT_NEAR(v.mean().item<double>(), want, 4 * standard_error);
}

TEST(AdamW, RefusesWhatItCannotHold) {
  const Fixture fixture(at::kDouble);
  EXPECT_THROW(AdamW(*fixture.units, {.v_type = MomentType::kBf16Stochastic}), InvalidInput);
  EXPECT_THROW(AdamW(*fixture.units, {.beta1 = 1.0}), InvalidInput);
  EXPECT_THROW(AdamW(*fixture.units, {.beta2 = -0.1}), InvalidInput);
}

// --- stochastic rounding

TEST(StochasticRound, WordsAreThoseOfPhilox) {
  const RandomBits bits{.seed = 0x123456789abcdef0ull, .step = 77, .slot = 5, .draw = 3};
  for (const int64_t first : {0, 1, 4, 1000003}) {
    const at::Tensor words = random_words(bits, first, 9, at::kCPU);
    for (int64_t i = 0; i < 9; ++i) {
      const int64_t e = first + i;
      const PhiloxWords want =
          philox4x32({static_cast<uint32_t>(e / 4), 5, 77,
                      static_cast<uint32_t>(Stream::kStochasticRound) | (3u << 16)},
                     {0x9abcdef0u, 0x12345678u});
      EXPECT_EQ(words[i].item<int64_t>(), int64_t{want[static_cast<std::size_t>(e % 4)]}) << e;
    }
  }
}

TEST(StochasticRound, IsUnbiasedAndChoosesANeighbour) {
  constexpr int64_t kCount = 100000;
  for (const double value : {1.0 + 0x1p-10, -(1.0 + 3 * 0x1p-9), 3.1e-20, 0.7, -12345.6}) {
    const at::Tensor x = at::full({kCount}, value, at::kFloat);
    const double exact = x[0].item<double>();
    const at::Tensor got = stochastic_round(x, {.seed = 1, .step = 2}, 0).to(at::kDouble);
    const double low = got.min().item<double>(), high = got.max().item<double>();
    EXPECT_LE(low, exact);
    EXPECT_GE(high, exact);
    EXPECT_LE(high - low, std::abs(exact) * 0x1p-7);
    EXPECT_TRUE(((got == low).logical_or(got == high)).all().item<bool>());
    const double standard_error =
        std::sqrt((exact - low) * (high - exact) / static_cast<double>(kCount));
    EXPECT_NEAR(got.mean().item<double>(), exact, 4 * standard_error);
  }
}

TEST(StochasticRound, IsAFunctionOfItsKey) {
  const at::Tensor x = golden_tensor("round", "x", {101});
  const RandomBits bits{.seed = 1, .step = 2, .slot = 3, .draw = 4};
  const at::Tensor once = stochastic_round(x, bits, 0);
  EXPECT_TRUE(is_equal(stochastic_round(x, bits, 0), once));
  EXPECT_TRUE(is_equal(stochastic_round(x.narrow(0, 39, 40), bits, 39), once.narrow(0, 39, 40)));
  for (const RandomBits& other : {RandomBits{.seed = 9, .step = 2, .slot = 3, .draw = 4},
                                  RandomBits{.seed = 1, .step = 9, .slot = 3, .draw = 4},
                                  RandomBits{.seed = 1, .step = 2, .slot = 9, .draw = 4},
                                  RandomBits{.seed = 1, .step = 2, .slot = 3, .draw = 9}}) {
    EXPECT_FALSE(is_equal(stochastic_round(x, other, 0), once));
  }
}

TEST(StochasticRound, KeepsWhatBf16HoldsAndWhatIsNotFinite) {
  const double inf = std::numeric_limits<double>::infinity();
  const at::Tensor exact = at::tensor({0.f, -0.f, 1.f, -2.5f, 0x1p-126f});
  EXPECT_TRUE(is_equal(stochastic_round(exact, {}, 0), exact.to(at::kBFloat16)));
  const at::Tensor odd =
      stochastic_round(at::tensor({inf, -inf, std::nan("")}).to(at::kFloat), {}, 0);
  EXPECT_EQ(odd[0].item<double>(), inf);
  EXPECT_EQ(odd[1].item<double>(), -inf);
  EXPECT_TRUE(at::isnan(odd[2]).item<bool>());
}

}  // namespace
}  // namespace fastwan::training
