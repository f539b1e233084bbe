#include "models/lora.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "models/wan_dit.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::models {
namespace {

using testing::Golden;
using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;

enum class Style { kPeft, kOriginal, kMusubi };

const Golden& golden() {
  static const Golden value("models", "l1");
  return value;
}

std::shared_ptr<WanDit> make(const RoundingProfile& profile = RoundingProfile::fp32()) {
  auto model =
      std::make_shared<WanDit>(layout::read_wan_dit(golden().manifest().at("config"), "l1"),
                               std::make_shared<ops::FullAttention>(), profile, at::kCPU);
  EXPECT_EQ(testing::fill_golden_weights(*model, "d1"),
            golden().manifest().at("weights_sha256").get<std::string>());
  return model;
}

std::map<std::string, at::Tensor> copy_of(const WanDit& model) {
  std::map<std::string, at::Tensor> out;
  for (const auto& parameter : model.named_parameters()) {
    out.emplace(parameter.key(), parameter.value().clone());
  }
  return out;
}

class Lora : public ::testing::Test {
 protected:
  // The golden's matrices under the keys of one style. PEFT files have alpha / r folded in.
  static std::vector<NamedTensor> tensors(Style style) {
    const Json& m = golden().manifest();
    const auto rank = m.at("rank").get<int64_t>();
    const double alpha = m.at("alpha").get<double>();
    std::vector<NamedTensor> out;
    for (const Json& module : m.at("modules")) {
      const auto theirs = module.at("diffusers").get<std::string>();
      const auto own = module.at("original").get<std::string>();
      const auto shape = module.at("shape").get<std::vector<int64_t>>();
      const bool has_alpha = module.at("has_alpha").get<bool>();
      const at::Tensor down = golden_tensor("l1", theirs + ".down", {rank, shape[1]});
      const at::Tensor up = golden_tensor("l1", theirs + ".up", {shape[0], rank});
      const at::Tensor diff_b = golden_tensor("l1", theirs + ".diff_b", {shape[0]});
      if (style == Style::kPeft) {
        const double folded = has_alpha ? alpha / static_cast<double>(rank) : 1.0;
        out.push_back({"transformer." + theirs + ".lora_A.weight", down * folded});
        out.push_back({"transformer." + theirs + ".lora_B.weight", up});
        continue;
      }
      const std::string name = style == Style::kMusubi ? "lora_unet_" + replace_all(own, ".", "_")
                                                       : "diffusion_model." + own;
      if (style == Style::kMusubi && !has_alpha) {
        continue;
      }
      out.push_back({name + ".lora_down.weight", down});
      out.push_back({name + ".lora_up.weight", up});
      if (has_alpha) {
        out.push_back({name + ".alpha", at::full({}, alpha)});
      }
      if (style == Style::kOriginal && module.at("has_bias").get<bool>()) {
        out.push_back({name + ".diff_b", diff_b});
      }
    }
    return out;
  }

  layout::LoraChoice store(const std::vector<NamedTensor>& tensors,
                           double scale = golden().manifest().at("strength").get<double>()) const {
    const Path file = folder_.where() / str("lora_", ++count_, ".safetensors");
    save_tensors(file, tensors);
    return {.file = file, .scale = scale};
  }

  // The error's code and message; the weights must be untouched.
  static std::string refusal(const layout::LoraChoice& lora, Code code = Code::kLoraMismatch) {
    const auto model = make();
    const auto before = copy_of(*model);
    try {
      LoraMerge(*model).merge(lora);
    } catch (const InvalidInput& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      for (const auto& [name, value] : copy_of(*model)) {
        EXPECT_TRUE(is_equal(value, before.at(name))) << name;
      }
      return error.what();
    }
    return "nothing was thrown";
  }

 private:
  TempFolder folder_;
  mutable int count_ = 0;
};

void expect_names(const std::string& message, std::string_view part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

class LoraStyles : public Lora, public ::testing::WithParamInterface<Style> {};

TEST_P(LoraStyles, MergedWeightsAreThoseOfDiffusersKeysAndFp64) {
  // A sum of five products in fp32, rounded once.
  constexpr testing::Tolerance kMerge{.of_range = 2e-7, .relative_l2 = 1e-7};
  const auto model = make();
  const auto before = copy_of(*model);
  LoraMerge merge(*model);
  EXPECT_TRUE(merge.merge(store(tensors(GetParam()))).empty());
  const auto after = copy_of(*model);
  for (const auto& name : golden().manifest().at("merged").get<std::vector<std::string>>()) {
    const bool has_update = (GetParam() == Style::kOriginal || !name.ends_with(".bias")) &&
                            (GetParam() != Style::kMusubi || !name.starts_with("proj_out."));
    if (has_update) {
      EXPECT_TRUE(is_close(after.at(name), golden().tensor("out." + name), kMerge)) << name;
    } else {
      EXPECT_TRUE(is_equal(after.at(name), before.at(name))) << name;
    }
  }
  merge.remove();
  for (const auto& [name, value] : copy_of(*model)) {
    EXPECT_TRUE(is_equal(value, before.at(name))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All,
                         LoraStyles,
                         ::testing::Values(Style::kPeft, Style::kOriginal, Style::kMusubi));

TEST_F(Lora, Bf16WeightsAreRoundedOnceAndRestoredInEveryBit) {
  const auto model = make(RoundingProfile::diffusers_bf16());
  const auto before = copy_of(*model);
  const layout::LoraChoice lora = store(tensors(Style::kOriginal));
  LoraMerge merge(*model);
  merge.merge(lora);
  merge.merge(lora);
  // The same in fp32 from the same bf16 numbers, at twice the scale.
  const auto wide = make();
  for (const auto& parameter : wide->named_parameters()) {
    parameter.value().copy_(before.at(parameter.key()));
  }
  LoraMerge(*wide).merge({.file = lora.file, .scale = 2 * lora.scale});
  const std::string name = "blocks.1.attn1.to_q.weight";
  const at::Tensor merged = copy_of(*model).at(name);
  EXPECT_EQ(merged.scalar_type(), at::kBFloat16);
  // A second rounding would cost about 2^-9; a few last places may differ by fp32's order of sums.
  EXPECT_LT(testing::relative_l2(merged, copy_of(*wide).at(name).to(at::kBFloat16)), 0x1p-12);
  merge.remove();
  for (const auto& [key, value] : copy_of(*model)) {
    EXPECT_TRUE(is_equal(value, before.at(key))) << key;
  }
}

TEST_F(Lora, AddsFullDifferencesToWeightsAndNorms) {
  const auto model = make();
  const auto before = copy_of(*model);
  const at::Tensor matrix = golden_tensor("l1", "diff", {16, 48});
  const at::Tensor norm = golden_tensor("l1", "norm", {48});
  LoraMerge merge(*model);
  merge.merge(store({{"diffusion_model.head.head.diff", matrix},
                     {"diffusion_model.blocks.1.norm3.diff", norm},
                     {"diffusion_model.blocks.1.self_attn.norm_q.diff", norm}},
                    -2.0));
  const auto after = copy_of(*model);
  for (const auto& [name, diff] :
       {std::pair{"proj_out.weight", matrix}, std::pair{"blocks.1.norm2.weight", norm},
        std::pair{"blocks.1.attn1.norm_q.weight", norm}}) {
    EXPECT_TRUE(is_equal(after.at(name), before.at(name) - 2.0 * diff)) << name;
  }
}

// What training with adapters and sparse attention exports.
TEST_F(Lora, GatesTakeThePlaceOfTheBases) {
  const layout::WanDitConfig config = [] {
    layout::WanDitConfig gated = layout::read_wan_dit(golden().manifest().at("config"), "l1");
    gated.is_gated = true;
    return gated;
  }();
  WanDit model(config, std::make_shared<ops::VsaAttention>(ops::Sparsity{.value = 0.5}, true),
               RoundingProfile::fp32(), at::kCPU);
  for (const auto& parameter : model.named_parameters()) {
    parameter.value().detach().fill_(0.25);
  }
  const std::string gate = "blocks.1.to_gate_compress";
  const at::Tensor weight = golden_tensor("l1", "gate", {48, 48}), bias = at::full({48}, 0.75);
  const std::vector<NamedTensor> file = {{gate + ".weight", weight}, {gate + ".bias", bias}};
  const layout::LoraChoice whole = store(file, 1.0);
  LoraMerge merge(model);
  EXPECT_TRUE(merge.merge(whole).empty());
  EXPECT_TRUE(is_equal(copy_of(model).at(gate + ".weight"), weight.to(at::kFloat)));
  EXPECT_TRUE(is_equal(copy_of(model).at(gate + ".bias"), bias));
  merge.remove();
  EXPECT_TRUE(is_equal(copy_of(model).at(gate + ".bias"), at::full({48}, 0.25)));
  merge.merge(store(file, 0.5));
  EXPECT_TRUE(is_equal(copy_of(model).at(gate + ".bias"), at::full({48}, 0.5)));

  const std::vector<std::string> gated = {whole.file + ":0.5"}, missing = {"/nowhere"};
  EXPECT_TRUE(LoraMerge::bring_gates(gated));
  EXPECT_FALSE(LoraMerge::bring_gates(missing));
  EXPECT_FALSE(LoraMerge::bring_gates(std::vector{store(tensors(Style::kPeft)).file}));
  // A dense network has none; whole weights of other layers are no LoRA.
  EXPECT_NE(refusal(whole).find("none of its 2 keys"), std::string::npos);
  EXPECT_NE(refusal(store({{"blocks.1.attn1.to_q.weight", weight}})).find("none of its 1 keys"),
            std::string::npos);
}

TEST_F(Lora, KeysThatFitNothingAreReturned) {
  std::vector<NamedTensor> some = tensors(Style::kPeft);
  some.push_back({"transformer.blocks.99.attn1.to_q.lora_A.weight", some[0].tensor});
  some.push_back({"text_model.something", some[0].tensor});
  const auto model = make();
  LoraMerge merge(*model);
  EXPECT_EQ(merge.merge(store(some)),
            (std::vector<std::string>{"text_model.something",
                                      "transformer.blocks.99.attn1.to_q.lora_A.weight"}));
}

TEST_F(Lora, AFileForAnotherModelIsRefusedWhole) {
  const at::Tensor x = at::full({4, 48}, 0.5);
  expect_names(refusal(store({{"unet.down.lora_A.weight", x}, {"unet.down.lora_B.weight", x}})),
               "none of its 2 keys");
  std::vector<NamedTensor> lonely = tensors(Style::kPeft);
  lonely.erase(lonely.begin());
  expect_names(refusal(store(lonely)), "has no partner");
  std::vector<NamedTensor> wider = tensors(Style::kPeft);
  wider.back().tensor = at::full({16, 5}, 0.5);
  expect_names(refusal(store(wider)), "do not multiply to the model's [48, 48]");
  std::vector<NamedTensor> twice = tensors(Style::kPeft);
  const std::vector<NamedTensor> original = tensors(Style::kOriginal);
  twice.insert(twice.end(), original.begin(), original.end());
  expect_names(refusal(store(twice)), "two updates of one weight");
}

TEST_F(Lora, NotANumberLateInTheFileLeavesTheWeightsAsTheyWere) {
  std::vector<NamedTensor> bad = tensors(Style::kPeft);
  bad.back().tensor = bad.back().tensor.clone();
  bad.back().tensor.view({-1})[-1] = std::numeric_limits<float>::quiet_NaN();
  expect_names(refusal(store(bad), Code::kNonFiniteWeights), bad.back().name);
}

}  // namespace
}  // namespace fastwan::models
