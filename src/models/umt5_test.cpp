#include "models/umt5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/files.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "models/umt5/position.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::models {
namespace {

using testing::Golden;
using testing::is_close;
using testing::is_equal;
using testing::kModelFp32;
using testing::relative_l2;

constexpr const char* kCase = "x1";
constexpr int64_t kHeadSize = 8;

const Golden& golden() {
  static const Golden value("models", kCase);
  return value;
}

layout::Umt5Config config() {
  return layout::read_umt5(golden().manifest().at("config"), kCase);
}

std::shared_ptr<Umt5> make(at::ScalarType held, at::ScalarType compute) {
  auto model = std::make_shared<Umt5>(config(), held, Umt5Options{.compute = compute});
  EXPECT_EQ(testing::fill_golden_weights(*model, kCase, kHeadSize),
            golden().manifest().at("weights_sha256").get<std::string>());
  return model;
}

class Umt5Golden : public ::testing::TestWithParam<int> {
 protected:
  at::Tensor ids() const { return golden().tensor(str("in.ids_", GetParam())); }
  at::Tensor exact() const { return golden().tensor(str("out.", GetParam())); }
};

TEST_P(Umt5Golden, EmbeddingIsThatOfTransformersInFp32) {
  EXPECT_TRUE(is_close(make(at::kFloat, at::kFloat)->forward(ids()), exact(), kModelFp32));
}

TEST_P(Umt5Golden, EmbeddingInBf16IsAsNearAsTransformersOwn) {
  const at::Tensor got = make(at::kBFloat16, at::kBFloat16)->forward(ids());
  ASSERT_EQ(got.scalar_type(), at::kBFloat16);
  const double E =
      golden().manifest().at("bf16_error").at(std::to_string(GetParam())).get<double>();
  EXPECT_LE(relative_l2(got, exact()), 1.5 * E);
  EXPECT_LE(relative_l2(got, golden().tensor(str("out_bf16.", GetParam()))), 2 * E);
  EXPECT_GE(testing::cosine(got, exact()), 0.9998);
}

INSTANTIATE_TEST_SUITE_P(Lengths, Umt5Golden, ::testing::Values(1, 7, 130, 512));

TEST(Umt5, WeightsHeldInBf16GiveWhatTheSameNumbersGiveInFp32) {
  const at::Tensor ids = golden().tensor("in.ids_130");
  const auto held = make(at::kBFloat16, at::kFloat);
  const auto wide = make(at::kFloat, at::kFloat);
  const at::Tensor exact = wide->forward(ids);
  for (const auto& parameter : wide->named_parameters()) {
    parameter.value().copy_(held->named_parameters()[parameter.key()]);
  }
  const at::Tensor got = held->forward(ids);
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_TRUE(is_equal(got, wide->forward(ids)));
  EXPECT_FALSE(is_close(got, exact, kModelFp32)) << "rounding the weights has no effect";
}

TEST(Umt5, PositionBucketsAreThoseOfTransformers) {
  EXPECT_TRUE(is_equal(position_bucket(golden().tensor("in.offset"), config()),
                       golden().tensor("out.bucket")));
}

TEST(Umt5, RowsOfABatchDoNotSeeEachOther) {
  const auto model = make(at::kFloat, at::kFloat);
  const at::Tensor a = golden().tensor("in.ids_7");  // [1, 7]
  const at::Tensor b = a.flip(1);
  const at::Tensor both = model->forward(at::cat({a, b}));
  EXPECT_TRUE(is_close(both.narrow(0, 0, 1), model->forward(a), kModelFp32));
  EXPECT_TRUE(is_close(both.narrow(0, 1, 1), model->forward(b), kModelFp32));
}

TEST(Umt5, RefusesIdsOutsideTheVocabulary) {
  const auto model = make(at::kFloat, at::kFloat);
  for (const int64_t id : {int64_t{-1}, config().vocab_size}) {
    EXPECT_THROW(model->forward(at::full({1, 3}, id, at::kLong)), InvalidInput) << id;
  }
  EXPECT_NO_THROW(model->forward(at::full({1, 3}, config().vocab_size - 1, at::kLong)));
}

// --- loading

class Umt5Files : public ::testing::Test {
 protected:
  // A component folder with the golden weights; `edit` changes the tensors before they are stored.
  void store(const std::function<void(std::vector<NamedTensor>&)>& edit) {
    write_durably(folder_.where() / "config.json", dump_json(golden().manifest().at("config")));
    std::vector<NamedTensor> tensors;
    for (const auto& parameter : make(at::kFloat, at::kFloat)->named_parameters()) {
      tensors.push_back({parameter.key(), parameter.value()});
    }
    edit(tensors);
    save_tensors(folder_.where() / "model.safetensors", tensors);
  }
  static NamedTensor& embedding(std::vector<NamedTensor>& tensors) {
    return *std::find_if(tensors.begin(), tensors.end(),
                         [](const NamedTensor& t) { return t.name == "shared.weight"; });
  }
  void expect_golden() {
    const auto model = load_umt5(folder_.where(), {});
    EXPECT_TRUE(is_close(model->forward(golden().tensor("in.ids_7")), golden().tensor("out.7"),
                         kModelFp32));
  }

  TempFolder folder_;
};

constexpr const char* kAlias = "encoder.embed_tokens.weight";

TEST_F(Umt5Files, EmbeddingMayHaveEitherNameOrBoth) {
  store([](auto&) {});
  expect_golden();
  store([](auto& tensors) { embedding(tensors).name = kAlias; });
  expect_golden();
  store([](auto& tensors) { tensors.push_back({kAlias, embedding(tensors).tensor}); });
  expect_golden();
}

TEST_F(Umt5Files, TwoEmbeddingsThatDifferAreRefused) {
  store([](auto& tensors) {
    at::Tensor other = embedding(tensors).tensor.clone();
    other[299][31] += 1;
    tensors.push_back({kAlias, other});
  });
  try {
    load_umt5(folder_.where(), {});
    FAIL() << "the last element differs";
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kBadModel);
    EXPECT_NE(std::string(error.what()).find(kAlias), std::string::npos);
  }
}

TEST_F(Umt5Files, WeightsAreHeldAsStoredUnlessToldOtherwise) {
  store([](auto& tensors) {
    for (NamedTensor& t : tensors) {
      t.tensor = t.tensor.to(at::kBFloat16);
    }
  });
  const auto held_type = [this](const Umt5Options& options) {
    return load_umt5(folder_.where(), options)->parameters().front().scalar_type();
  };
  EXPECT_EQ(held_type({}), at::kBFloat16);
  EXPECT_EQ(held_type({.held = at::kFloat}), at::kFloat);
  const at::Tensor ids = golden().tensor("in.ids_7");
  EXPECT_TRUE(is_equal(load_umt5(folder_.where(), {})->forward(ids),
                       load_umt5(folder_.where(), {.held = at::kFloat})->forward(ids)));
}

}  // namespace
}  // namespace fastwan::models
