#include "training/muon.h"

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "models/parameters.h"
#include "support/compare.h"
#include "support/golden.h"
#include "support/thread_comm.h"

namespace fastwan::training {
namespace {

using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;
using testing::on_ranks;

constexpr double kRate = 1e-2;
// fp64: thousands of roundings of 2^-53; AdamW's are the same operations in the same order.
constexpr testing::Tolerance kClose{.of_range = 1e-9, .relative_l2 = 1e-9};
constexpr testing::Tolerance kSame{.of_range = 1e-14, .relative_l2 = 1e-14};

// p(s) = a s + b s^3 + c s^5, five times: what the iteration does to each singular value.
at::Tensor five_times(at::Tensor s) {
  for (int i = 0; i < 5; ++i) {
    s = 3.4445 * s - 4.7750 * s.pow(3) + 2.0315 * s.pow(5);
  }
  return s;
}

// Of one matrix, from its singular value decomposition.
at::Tensor reference(const at::Tensor& x) {
  const auto [u, s, vh] = at::linalg_svd(x, /*full_matrices=*/false);
  return at::matmul(u * five_times(s / at::sqrt(s.square().sum())), vh);
}

TEST(Muon, OrthogonalisedKeepsDirectionsAndPutsThePolynomialOnSingularValues) {
  for (const auto& [r, c] : {std::pair<int64_t, int64_t>{6, 6}, {5, 9}, {9, 5}, {1, 7}, {7, 1}}) {
    const at::Tensor x = golden_tensor("muon", "x", {3, r, c}).to(at::kDouble);
    const at::Tensor got = orthogonalised(x);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(is_close(got[i], reference(x[i]), kClose)) << r << " x " << c;
    }
  }
  // The band that the polynomial was made for, about 0.7 to 1.2.
  const at::Tensor values = at::linalg_svdvals(
      orthogonalised(golden_tensor("muon", "wide", {2, 48, 192}).to(at::kDouble)));
  EXPECT_GT(values.min().item<double>(), 0.65);
  EXPECT_LT(values.max().item<double>(), 1.25);
  const at::Tensor zero = at::zeros({1, 3, 4}, at::kDouble);
  EXPECT_TRUE(is_equal(orthogonalised(zero), zero)) << "no direction, no step";
}

// Two blocks with a matrix each, something between, and a matrix outside of blocks.
struct Fixture {
  explicit Fixture(const distributed::Mesh& mesh = distributed::one_process())
      : module(std::make_shared<torch::nn::Module>()) {
    const auto add = [this](const char* name, at::IntArrayRef shape) {
      models::add_parameter(*module, name, shape, at::kDouble)
          .copy_(golden_tensor("muon", name, shape, /*mean=*/0.0, /*std=*/0.1));
    };
    add("blocks.0.a.weight", {4, 6});
    add("blocks.0.a.bias", {4});
    add("blocks.1.a.weight", {4, 6});
    add("blocks.1.table", {1, 2, 3});
    add("head.weight", {5, 2});
    units = std::make_unique<Units>(*module, one_unit(*module),
                                    UnitsOptions{.compute = at::kDouble}, mesh);
  }
  void set_gradient(int64_t step) const {
    const at::Tensor gradient = units->gradient(0);
    gradient.copy_(golden_tensor("muon", "g" + std::to_string(step), {gradient.size(0)}));
  }
  at::Tensor of(const at::Tensor& flat, const std::string& name) const {
    for (const UnitTensor& tensor : units->layout()[0].tensors) {
      if (tensor.name == name) {
        return flat.narrow(0, tensor.offset, tensor.numel).view(tensor.shape);
      }
    }
    ADD_FAILURE() << name;
    return {};
  }

  std::shared_ptr<torch::nn::Module> module;
  std::unique_ptr<Units> units;
};

TEST(Muon, StepsMatricesOfBlocksByTheFormulaAndAllElseAsAdamWDoes) {
  const Fixture fixture, plain;
  Muon muon(*fixture.units, {});
  AdamW adamw(*plain.units, {});
  const AdamWOptions options;
  std::map<std::string, at::Tensor> m, want;
  const std::vector<std::string> matrices = {"blocks.0.a.weight", "blocks.1.a.weight"};
  for (const std::string& name : matrices) {
    want[name] = fixture.of(fixture.units->master(0), name).clone();
    m[name] = at::zeros({4, 6}, at::kDouble);
  }
  for (int64_t n = 1; n <= 4; ++n) {
    fixture.set_gradient(n);
    plain.set_gradient(n);
    muon.step(kRate);
    adamw.step(kRate);
    for (const std::string& name : matrices) {
      const at::Tensor g = fixture.of(fixture.units->gradient(0), name);
      m[name] = 0.95 * m[name] + g;
      want[name] = want[name] * (1 - kRate * options.weight_decay) -
                   kRate * 0.2 * std::sqrt(6.0) * reference(g + 0.95 * m[name]);
      EXPECT_TRUE(is_close(fixture.of(fixture.units->master(0), name), want[name], kClose))
          << name << ", update " << n;
    }
    for (const char* name : {"blocks.0.a.bias", "blocks.1.table", "head.weight"}) {
      EXPECT_TRUE(is_close(fixture.of(fixture.units->master(0), name),
                           plain.of(plain.units->master(0), name), kSame))
          << name;
    }
  }
}

TEST(Muon, StateContinuesInEveryBit) {
  const auto run = [](const Fixture& fixture, Muon& muon, int64_t from, int64_t to) {
    for (int64_t n = from; n < to; ++n) {
      fixture.set_gradient(n);
      muon.step(kRate);
    }
  };
  const Fixture straight, first, second;
  Muon one(*straight.units, {}), before(*first.units, {}), after(*second.units, {});
  run(straight, one, 1, 7);
  run(first, before, 1, 4);
  second.units->pieces()[0].values.copy_(first.units->pieces()[0].values);
  ASSERT_EQ(before.pieces().size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    after.pieces()[i].values.copy_(before.pieces()[i].values);
  }
  after.set_updates(before.updates());
  run(second, after, 4, 7);
  EXPECT_TRUE(is_equal(second.units->master(0), straight.units->master(0)));
}

TEST(Muon, RefusesWhatItCannotHold) {
  const Fixture fixture;
  EXPECT_THROW(Muon(*fixture.units, {.m_type = MomentType::kBf16Stochastic}), InvalidInput);
  on_ranks(1, 2, [](int64_t, const distributed::Mesh& mesh) {
    const Fixture part(mesh);
    EXPECT_THROW(Muon(*part.units, {}), InvalidInput);
  });
}

}  // namespace
}  // namespace fastwan::training
