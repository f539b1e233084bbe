#include "training/units.h"

#include <memory>
#include <stdexcept>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "models/parameters.h"
#include "support/compare.h"
#include "support/thread_comm.h"

namespace fastwan::training {
namespace {

using testing::is_equal;
using testing::on_ranks;

// b [3], a.w [2, 2], a.c []: 8 elements.
std::shared_ptr<torch::nn::Module> small_module(at::ScalarType type) {
  auto module = std::make_shared<torch::nn::Module>();
  models::add_parameter(*module, "b", {3}, type).copy_(at::arange(3));
  models::add_parameter(*module, "a.w", {2, 2}, type).copy_(at::arange(4).view({2, 2}) + 10);
  models::add_parameter(*module, "a.c", {}, type).fill_(7);
  return module;
}

at::Tensor logical_values() {
  return at::tensor({7.f, 10.f, 11.f, 12.f, 13.f, 0.f, 1.f, 2.f});
}

TEST(Units, TensorsLieInTheOrderOfTheirNames) {
  const auto module = small_module(at::kFloat);
  const Units units(*module, one_unit(*module), {}, distributed::one_process());
  ASSERT_EQ(units.count(), 1);
  const UnitLayout& layout = units.layout()[0];
  ASSERT_EQ(layout.tensors.size(), 3u);
  EXPECT_EQ(layout.tensors[0].name, "a.c");
  EXPECT_EQ(layout.tensors[1].name, "a.w");
  EXPECT_EQ(layout.tensors[2].name, "b");
  EXPECT_EQ(layout.tensors[2].offset, 5);
  EXPECT_EQ(layout.numel, 8);
  EXPECT_EQ(units.num_parameters(), 8);
  EXPECT_TRUE(is_equal(units.master(0), logical_values()));
}

TEST(Units, ParametersAreViewsOfTheMasterWhereNothingHasToBeGathered) {
  const auto module = small_module(at::kFloat);
  const Units units(*module, one_unit(*module), {}, distributed::one_process());
  units.master(0).mul_(2);
  EXPECT_TRUE(is_equal(module->named_parameters()["b"].detach(), at::tensor({0.f, 2.f, 4.f})));
}

TEST(Units, GradientsOfABackwardAddUpUntilTheyAreZeroed) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto module = small_module(compute);
    Units units(*module, one_unit(*module), {.compute = compute}, distributed::one_process());
    const auto backward = [&] {
      const auto gathered = units.gather_all();
      units.open_gradients(0);
      const at::Tensor b = module->named_parameters()["b"];
      (b * b).sum().backward();
      units.close_gradients(0);
      EXPECT_FALSE(b.grad().defined());
    };
    backward();
    backward();
    const at::Tensor want =
        at::tensor({0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 4.f, 8.f}).to(units.master_type());
    EXPECT_TRUE(is_equal(units.gradient(0), want)) << compute;
    units.zero_gradients();
    EXPECT_TRUE(is_equal(units.gradient(0), want * 0));
  }
}

TEST(Units, InitialiseLendsWholeTensorsInTheMasterType) {
  const auto module = small_module(at::kBFloat16);
  Units units(*module, one_unit(*module), {.compute = at::kBFloat16}, distributed::one_process());
  const float third = 1.0f / 3.0f;  // no bf16 number
  units.initialise([&] { module->named_parameters()["b"].fill_(third); });
  EXPECT_EQ(units.values()[2].value[1].item<float>(), third);
  EXPECT_EQ(units.values()[1].value[0][0].item<float>(), 10.0f);
  EXPECT_TRUE(at::isnan(module->named_parameters()["b"]).all().item<bool>());
}

TEST(Units, EachRankHoldsItsRangeAndPaddingStaysOut) {
  // 8 elements on 3 ranks: 3, 3 and 2 with one of padding; on 5 ranks the last holds padding alone.
  for (const int64_t ranks : {3, 5}) {
    const int64_t part = (8 + ranks - 1) / ranks;
    std::vector<FlatPiece> pieces(static_cast<std::size_t>(ranks));
    on_ranks(1, ranks, [&](int64_t rank, const distributed::Mesh& mesh) {
      const auto module = small_module(at::kFloat);
      Units units(*module, one_unit(*module), {}, mesh);
      EXPECT_EQ(units.layout()[0].padded, part * ranks);
      EXPECT_TRUE(at::isnan(module->named_parameters()["b"]).all().item<bool>());
      {
        const auto gathered = units.gather_all();
        EXPECT_TRUE(
            is_equal(module->named_parameters()["b"].detach(), at::tensor({0.f, 1.f, 2.f})));
        units.open_gradients(0);
        // Each rank another loss: the gradient is their mean.
        (module->named_parameters()["b"].sum() * static_cast<double>(rank + 1)).backward();
        units.close_gradients(0);
      }
      const at::Tensor mean = at::full({8}, static_cast<double>(ranks + 1) / 2.0);
      mean.narrow(0, 0, 5).zero_();
      const int64_t held = units.master(0).size(0);
      EXPECT_TRUE(is_equal(units.gradient(0), mean.narrow(0, units.begin(0), held)));
      EXPECT_TRUE(is_equal(units.values()[2].value, at::tensor({0.f, 1.f, 2.f})));
      FlatPiece piece = units.pieces()[0];
      piece.values = piece.values.clone();
      pieces[static_cast<std::size_t>(rank)] = piece;
    });
    int64_t next = 0;
    for (const FlatPiece& piece : pieces) {
      EXPECT_EQ(piece.begin, next);
      EXPECT_TRUE(is_equal(piece.values, logical_values().narrow(0, next, piece.values.size(0))));
      next += piece.values.size(0);
    }
    EXPECT_EQ(next, 8);
  }
}

TEST(Units, MisuseIsCaught) {
  const auto module = small_module(at::kFloat);
  Units units(*module, one_unit(*module), {}, distributed::one_process());
  EXPECT_THROW(units.close_gradients(0), std::logic_error);
  units.open_gradients(0);
  EXPECT_THROW(units.open_gradients(0), std::logic_error);
  const auto other = small_module(at::kFloat);
  Units frozen(*other, one_unit(*other), {.is_trainable = false}, distributed::one_process());
  EXPECT_THROW(frozen.open_gradients(0), std::logic_error);
  EXPECT_THROW(frozen.gradient(0), std::logic_error);
  EXPECT_ANY_THROW(
      Units(*other, {{.name = "all", .parameters = {"no_such"}}}, {}, distributed::one_process()));
}

}  // namespace
}  // namespace fastwan::training
